"""Which score tells strangers from texts of the classes? Posteriors with nothing but the defaults.

``python examples/benchmarks/strangers.py --data-dir DATA --output-dir strangers``

Model and DATA are those of ``defaults.py``, whose training texts are taken.  A posterior that is in
the output folder is not fitted again.  Strangers of the help desk and of ``clinc_oos`` are messages
of no class (the half that chose no score), those of ``sst2`` are questions from ``trec``, and the
reverse.  ``--smoke-test`` takes four steps on the help desk.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from defaults import columns, examples, rows_of

import blob_pyro
from blob_pyro.networks import MINILM
from blob_pyro.tasks import helpdesk

TABLES = ("helpdesk", "clinc_oos", "sst2", "trec")
OTHERS = {"sst2": "trec", "trec": "sst2"}


def strangers_of(data_dir: Path, table: str) -> list[str]:
    if table in OTHERS:
        texts, _ = columns(rows_of(data_dir, OTHERS[table], "test"))
    elif table == "clinc_oos":
        texts, _ = columns(rows_of(data_dir, table, "out_of_scope"))
    else:
        texts = list(helpdesk().splits["out_of_scope"]["text"])
    random.Random(0).shuffle(texts)
    return texts if table in OTHERS else texts[len(texts) // 2 :]


def posterior_of(folder: Path, train: list[dict[str, str]], **settings: Any) -> blob_pyro.Posterior:
    """Fit, unless it is done."""
    if not folder.exists():
        texts, labels = columns(train)
        blob_pyro.fine_tune(texts, MINILM, labels, progress=False, **settings).save(folder)
    return blob_pyro.load(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--output-dir", type=Path, default=Path("strangers"))
    parser.add_argument("--tables", nargs="+", default=[*TABLES], choices=TABLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=300, help="at most so many texts of each kind")
    parser.add_argument("--smoke-test", action="store_true")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {"seed": arguments.seed}
    if arguments.smoke_test:
        settings["num_steps"] = 4
        arguments.tables, arguments.limit = ["helpdesk"], 10
    for table in arguments.tables:
        train, test = examples(arguments.data_dir, table, "test", arguments.seed)
        random.Random(0).shuffle(test)
        posterior = posterior_of(
            arguments.output_dir / f"{table}-{arguments.seed}", train, **settings
        )
        found = posterior.evaluate(
            *columns(test[: arguments.limit]),
            ood=strangers_of(arguments.data_dir, table)[: arguments.limit],
            progress=False,
        )
        areas = found.ood_auroc()
        if table == arguments.tables[0]:
            print("| |", " | ".join(areas), "|")
            print("|---" * (len(areas) + 1) + "|")
        ends = found.ood_intervals().items()
        cells = [f"{areas[score]:.3f} ({low:.3f} to {high:.3f})" for score, (low, high) in ends]
        print(f"| {table} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
