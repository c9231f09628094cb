"""What one pass of a distilled adapter keeps of a posterior's ten, on three tables of texts.

``python examples/benchmarks/distillation.py --data-dir DATA --output-dir distillation``

Teachers are BLoB with nothing but the defaults on the examples of ``defaults.py``; students learn
from the teacher's training texts alone, and from 1,000 more of the table without their labels.  A
teacher or row that is there is not made again.  ``--split validation`` is for choosing settings by.
``--smoke-test`` takes four steps on the help desk, seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from pathlib import Path
from typing import Any

from defaults import columns, examples, read, rows_of
from scipy.stats import spearmanr

import blob_pyro
from blob_pyro.networks import MINILM
from blob_pyro.recipe.predictions import Predictions, load_predictions

TABLES = ("sst2", "trec", "clinc_oos")


def teacher_of(folder: Path, train: list[Any], settings: dict[str, Any]) -> blob_pyro.Posterior:
    if not folder.exists():
        texts, labels = columns(train)
        fitted = blob_pyro.fine_tune(texts, MINILM, labels, progress=False, **settings)
        fitted.save(folder)
    return blob_pyro.load(folder)


def predicted(path: Path, teacher: blob_pyro.Posterior, test: list[Any]) -> Predictions:
    if not path.exists():
        teacher.evaluate(*columns(test), num_samples=10, progress=False).save(path)
    return load_predictions(path)


def more_texts(data_dir: Path, table: str, texts: list[str], seed: int, count: int) -> list[str]:
    if not count:
        return []
    # Of the known classes or not: nobody has looked at these texts.
    rows = rows_of(data_dir, table, "train")
    random.Random(seed).shuffle(rows)
    return [row["text"] for row in rows if row["text"] not in texts][:count]


def measure(teacher: Predictions, student: Predictions) -> dict[str, float]:
    found = {f"teacher_{name}": value for name, value in teacher.metrics().items()}
    found |= student.metrics()
    pairs = (
        ("epistemic", teacher.epistemic_uncertainty, student.epistemic_uncertainty),
        ("total", teacher.total_uncertainty, student.total_uncertainty),
    )
    for name, first, second in pairs:
        found[f"{name}_rank_correlation"] = float(spearmanr(first, second).statistic)
        found |= {f"teacher_{name}": float(first.mean()), name: float(second.mean())}
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a line a student, teacher first in each cell."""
    print("| table | seed | texts | accuracy | ECE | NLL | epistemic, nats | rank correlation |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["table"], row["seed"], row["more"])):
        names = ("accuracy", "ece", "nll", "epistemic")
        cells = [f"{row[f'teacher_{name}']:.3f}, {row[name]:.3f}" for name in names]
        cells.append(f"{row['epistemic_rank_correlation']:.2f}")
        print(f"| {row['table']} | {row['seed']} | {row['texts']} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output-dir", type=Path, default=Path("distillation"))
    parser.add_argument("--tables", nargs="+", default=[*TABLES], choices=[*TABLES, "helpdesk"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--more", nargs="+", type=int, default=[0, 1000], help="unlabelled texts")
    parser.add_argument("--num-steps", type=int, help="of a student; else as many as texts need")
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--limit-test", type=int, default=500, help="at most so many")
    parser.add_argument("--smoke-test", action="store_true")
    asked = parser.parse_args()
    settings: dict[str, Any] = {}
    if asked.smoke_test:
        settings["num_steps"] = asked.num_steps = 4
        asked.tables, asked.seeds, asked.more, asked.limit_test = ["helpdesk"], [0], [0], 20
    results = asked.output_dir / f"{asked.split}.jsonl"
    asked.output_dir.mkdir(parents=True, exist_ok=True)
    for more, seed, table in itertools.product(asked.more, asked.seeds, asked.tables):
        run = {"table": table, "seed": seed, "more": more}
        if any(run.items() <= row.items() for row in read(results)):
            continue
        train, test = examples(asked.data_dir, table, asked.split, seed)
        train = train[::20] if asked.smoke_test else train
        # The same for all seeds.
        random.Random(0).shuffle(test)
        test = test[: asked.limit_test]
        place = asked.output_dir / f"{table}-{seed}"
        teacher = teacher_of(place, train, {**settings, "seed": seed})
        of_teacher = predicted(place.with_name(f"{place.name}-{asked.split}.npz"), teacher, test)
        texts, _ = columns(train)
        texts += more_texts(asked.data_dir, table, texts, seed, more)
        student = teacher.distill(texts, progress=False, num_steps=asked.num_steps)
        of_student = student.evaluate(*columns(test), progress=False)
        row = {**run, "texts": len(texts), **measure(of_teacher, of_student)}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print_table(read(results))


if __name__ == "__main__":
    main()
