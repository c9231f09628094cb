from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.tasks import TASKS

TASK = TASKS["openbookqa"]
REAL = Path(__file__).parents[3] / "shared" / "data"


def row(name: str, key: str = "B") -> dict[str, Any]:
    choices = {"text": ["one", "two"], "label": ["A", "B"]}
    return {"id": name, "question_stem": f"What is {name}?", "choices": choices, "answerKey": key}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, [row(f"q{i}") for i in range(20)])


def write(folder: Path, rows: list[Any], split: str = "train") -> Path:
    path = folder / "openbookqa" / "main"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_a_folder_gives_the_rows_in_their_order(folder: Path) -> None:
    questions = TASK.load("train", data_dir=folder)
    assert str(questions) == "20 of 20 rows"
    assert list(questions.data["id"]) == [f"q{i}" for i in range(20)]
    assert questions.data[3] == {
        "id": "q3",
        "prompt": "Question: What is q3?\nAnswer:",
        "options": ["one", "two"],
        "lettered": "Question: What is q3?\nA. one\nB. two\nAnswer:",
        "label": 1,
    }


def test_a_subset_is_decided_by_its_seed(folder: Path) -> None:
    first, again, other = (
        TASK.load("train", data_dir=folder, limit=5, seed=seed) for seed in (1, 1, 2)
    )
    assert first.data.to_dict() == again.data.to_dict()
    assert list(first.data["id"]) != list(other.data["id"])
    assert str(first) == "5 of 20 rows"
    assert len(set(first.data["id"])) == 5


def test_equal_ids_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path, [row("q"), row("r"), row("q"), row("q")])
    assert list(TASK.load("train", data_dir=folder).data["id"]) == ["q", "r", "q#2", "q#3"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("q", key="Z"), "has the answer 'Z', which is not among the options"),
        ({"id": "q"}, "has no 'choices'"),
        ({**row("q"), "choices": None}, "'NoneType' object is not subscriptable"),
    ],
)
def test_a_bad_row_is_named_or_counted(bad: Any, reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path, [row("a"), bad, row("b")])
    with pytest.raises(ValueError, match=rf"train.jsonl, line 2: {reason}.*--skip-bad-rows"):
        TASK.load("train", data_dir=folder)
    questions = TASK.load("train", data_dir=folder, skip_bad_rows=True)
    assert list(questions.data["id"]) == ["a", "b"]
    assert str(questions) == "2 of 3 rows, 1 bad ones skipped"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not beside the repository")
@pytest.mark.parametrize(
    ("name", "split", "size"),
    [
        ("openbookqa", "train", 4956),
        ("openbookqa", "validation", 500),
        ("ai2_arc_easy", "test", 2376),
        ("mmlu_college_chemistry", "test", 100),
    ],
)
def test_the_real_data_are_read_without_a_bad_row(name: str, split: str, size: int) -> None:
    questions = TASKS[name].load(split, data_dir=REAL)
    assert len(questions.data) == questions.num_rows == size
    assert len(set(questions.data["id"])) == size
