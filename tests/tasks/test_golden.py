"""Three rows of each data set, written here in its columns, and what every task makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from blob_pyro.tasks import TASKS, TEXT_TASKS, MultipleChoiceTask, Task, find_task

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
NAMES = [*TASKS, *TEXT_TASKS]


def split_of(task: Task) -> str:
    assert task.source is not None
    return "train" if "train" in task.source.splits else "test"


def rendered(task: Task) -> str:
    """Everything that a model may be shown of a task, as one reads it."""
    parts = []
    for row in task.load(split_of(task), data_dir=RECORDED).data:
        if isinstance(task, MultipleChoiceTask):
            texts = {
                "by the options' likelihood": row["prompt"],
                **{f"option {i}": option for i, option in enumerate(row["options"])},
                "by letter or word": row["lettered"],
                "which answers": " ".join(task.answers[: len(row["options"])]),
            }
        else:
            pair = row.get("text_pair", "")
            texts = {
                "to a head": row["text"] + (f"\n+ {pair}" if pair else ""),
                "by word": task.prompts([row["text"]], [pair])[0],
                "which answers": " ".join(task.answers),
                "by letter": task.lettered().prompts([row["text"]], [pair])[0],
            }
        parts.append(f"=== {row['id']}: label {row['label']}\n")
        parts += [f"--- {name}\n{text}\n" for name, text in texts.items()]
    return "".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_the_recorded_ones(name: str) -> None:
    golden = (HERE / "golden" / f"{name}.txt").read_text(encoding="utf-8")
    assert rendered(find_task(name)) == golden


def test_every_file_belongs_to_a_task() -> None:
    assert {path.stem for path in (HERE / "golden").iterdir()} == set(NAMES)
    used = {find_task(name).source.file(RECORDED, split_of(find_task(name))) for name in NAMES}  # type: ignore[union-attr]
    assert set(RECORDED.rglob("*.jsonl")) == used
    for path in used:
        assert len(path.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_the_hub_give_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's files are Parquet: those are made here, and read by the library of data sets."""
    asked, load_dataset = [], datasets.load_dataset

    def from_files(path: str, config: str, *, split: str) -> Any:
        asked.append((path, config, split))
        source = RECORDED / path.split("/")[1] / config / f"{split}.jsonl"
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        file = str(tmp_path / f"{split}-00000-of-00001.parquet")
        datasets.Dataset.from_list(rows).to_parquet(file)
        return load_dataset(
            "parquet", data_files={split: file}, split=split, cache_dir=str(tmp_path / "cache")
        )

    task = find_task(name)
    monkeypatch.setattr("datasets.load_dataset", from_files)
    hub, folder = task.load(split_of(task)), task.load(split_of(task), data_dir=RECORDED)
    assert hub.data.to_dict() == folder.data.to_dict()
    assert len(hub.data) == 3
    assert task.source is not None
    assert asked == [(task.source.path, task.source.config, split_of(task))]
