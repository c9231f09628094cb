from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.tasks import TEXT_TASKS, LabelledText, TextSource
from blob_pyro.tasks.source import ANSWERED

RTE = TEXT_TASKS["glue_rte"]
ROW: dict[str, Any] = {"sentence1": " It rains. ", "sentence2": "It is wet.", "label": 1, "idx": 5}


def test_a_pair_of_texts() -> None:
    assert RTE.source is not None
    assert RTE.source.parse(ROW, 2) == LabelledText("5", "It rains.", "It is wet.", 1)


def test_a_row_without_a_number_is_named_by_its_text() -> None:
    source = TextSource("a/b", "c", ANSWERED, "{word}: {sentence}")
    row = {"word": "{sentence}", "sentence": "x", "label": 0}
    assert source.parse(row, 2) == LabelledText("{sentence}: x", "{sentence}: x", None, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": -1}, "has the label -1; a whole number from 0 to 1 is needed"),
        ({"label": 2}, "has the label 2; a whole number from 0 to 1"),
        ({"label": "entailment"}, "has the label 'entailment'; a whole"),
        ({"label": True}, "has the label True; a whole"),
        ({"sentence2": " "}, "has an empty text where '{sentence2}' is needed"),
        ({"sentence1": None}, "has None in the column 'sentence1', where a text is needed"),
        ({"sentence1": 3}, "has 3 in the column 'sentence1'"),
    ],
)
def test_a_bad_row_is_named_or_counted(change: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "glue" / "rte" / "train.jsonl"
    path.parent.mkdir(parents=True)
    rows = [ROW, {**ROW, **change}, {**ROW, "label": 0}, {"label": 1}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=rf"train.jsonl, line 2: {reason}.*--skip-bad-rows"):
        RTE.load("train", data_dir=tmp_path)
    read = RTE.load("train", data_dir=tmp_path, skip_bad_rows=True)
    assert str(read) == "2 of 4 rows, 2 bad ones skipped"
    assert read.data.to_dict() == {
        "id": ["5", "5#2"],
        "text": ["It rains."] * 2,
        "label": [1, 0],
        "text_pair": ["It is wet."] * 2,
    }


def test_an_absent_column_is_named(tmp_path: Path) -> None:
    assert RTE.source is not None
    with pytest.raises(KeyError, match="sentence1"):
        RTE.source.parse({"label": 1}, 2)
