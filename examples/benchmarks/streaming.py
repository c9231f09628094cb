"""The memory of predicting a table that is read and written as it goes.

A tiny random network answers short texts, once by ``blob-pyro predict --data`` and once by
``Posterior.predictive`` over a stream of ``datasets``.  The resident memory of the process, in MiB,
is noted after every tenth of the rows; it should not grow.  ``--smoke-test`` predicts few rows.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from datasets import load_dataset
from paired_comparison import print_table

from blob_pyro import load
from blob_pyro.cli import app
from blob_pyro.recipe import Posterior, fine_tune
from blob_pyro.testing import tiny_base_folder, tiny_tokenizer
from blob_pyro.training import flush_denormals

BATCH = 512


def resident_mib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def posterior(folder: Path) -> Path:
    texts = ["the toner is empty", "my password is wrong"]
    tokenizer = tiny_tokenizer([*texts, *map(str, range(1000)), "printing login"])
    base = tiny_base_folder(folder / "base", tokenizer)
    labels = ["printing", "login"]
    fine_tune(texts, base, labels, num_steps=2, progress=False).save(folder / "posterior")
    return folder / "posterior"


def by_command(saved: Path, data: Path, note: Callable[[], None]) -> None:
    wanted = Posterior.predictive

    def noted(*arguments: Any, **options: Any) -> Any:
        note()
        return wanted(*arguments, **options)

    Posterior.predictive = noted  # type: ignore[method-assign]
    try:
        output = data.with_name("answers.csv")
        options = ["--data", str(data), "--output", str(output), "--num-samples", "2"]
        app(["predict", str(saved), *options], standalone_mode=False)
    finally:
        Posterior.predictive = wanted  # type: ignore[method-assign]
    with output.open() as answers, data.open() as rows:
        assert sum(1 for _ in answers) == 1 + sum(1 for _ in rows)


def by_stream(saved: Path, data: Path, note: Callable[[], None]) -> None:
    program = load(saved)
    stream = load_dataset("json", data_files=str(data), split="train", streaming=True)
    for batch in stream.batch(BATCH):
        note()
        # The same seed gives the same draws, whatever the batch.
        program.predictive(batch["text"], num_samples=2, progress=False)


def curve(way: Callable[..., None], num_rows: int, *where: Path) -> list[int]:
    num_batches, seen, found = -(-num_rows // BATCH), count(), []

    def note() -> None:
        if next(seen) in {num_batches * tenth // 10 for tenth in range(10)}:
            found.append(resident_mib())

    way(*where, note)
    return [*found, resident_mib()]


def lines(num_rows: int) -> Iterator[str]:
    for number in range(num_rows):
        yield f'{{"id": {number}, "text": "the toner {number % 1000} is empty"}}\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-rows", type=int, default=100_000)
    parser.add_argument("--smoke-test", action="store_true", help="few rows")
    arguments = parser.parse_args()
    num_rows = 11 * BATCH if arguments.smoke_test else arguments.num_rows
    flush_denormals()
    with tempfile.TemporaryDirectory() as name:
        saved, data = posterior(Path(name)), Path(name) / "rows.jsonl"
        with data.open("w") as file:
            file.writelines(lines(num_rows))
        rows = [
            [way.__name__, *map(str, curve(way, num_rows, saved, data))]
            for way in (by_command, by_stream)
        ]
    print_table(["MiB after", *(f"{10 * tenth} %" for tenth in range(11))], rows)


if __name__ == "__main__":
    main()
