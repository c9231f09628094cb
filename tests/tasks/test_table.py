from __future__ import annotations

import json
from pathlib import Path

import pytest

from blob_pyro.tasks import read_table

ROWS = [("no toner", "printing"), ("locked out", "login"), ("jam", "printing"), ("mfa", "login")]


def write_csv(path: Path, text: str = "text", label: str = "label") -> Path:
    lines = [f"{text},{label}", *(f"{a},{b}" for a, b in ROWS)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_csv_and_json_lines_give_the_same_task(tmp_path: Path) -> None:
    lines = tmp_path / "t.jsonl"
    lines.write_text("\n\n".join(json.dumps({"text": a, "label": b}) for a, b in ROWS))
    tasks = [read_table(path, test_fraction=0) for path in (write_csv(tmp_path / "t.csv"), lines)]
    found = [task.splits["train"].to_dict() for task in tasks]
    # Examples are named by their line.
    assert [columns.pop("id") for columns in found] == [["2", "3", "4", "5"], ["1", "3", "5", "7"]]
    assert found[0] == found[1]
    assert tasks[0].class_names == ("login", "printing")
    assert list(tasks[0].splits["train"]["label"]) == [1, 0, 1, 0]


def test_the_split_is_reproducible_and_loses_nothing(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv")
    first, again = (read_table(path, test_fraction=0.5, seed=3).splits for _ in range(2))
    assert first["test"].to_dict() == again["test"].to_dict()
    texts = [*first["train"]["text"], *first["test"]["text"]]
    assert sorted(texts) == sorted(text for text, _ in ROWS)
    assert len(first["test"]) == 2


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "body", "queue")
    assert len(read_table(path, "body", "queue", test_fraction=0).splits["train"]) == 4
    for skip in (False, True):
        with pytest.raises(
            ValueError, match=r"t.csv: has no column 'text' but \['body', 'queue'\]"
        ):
            read_table(path, skip_bad_rows=skip)
    with pytest.raises(ValueError, match=r"--text-column and --label-column$"):
        read_table(path, "body")
    lines = tmp_path / "t.jsonl"
    lines.write_text('{"body": "a", "queue": "x"}\n')
    with pytest.raises(
        ValueError, match=r"t.jsonl, line 1: has no column 'text' but \['body', 'qu"
    ):
        read_table(lines)
    with pytest.raises(ValueError, match=r"1 bad ones .without --skip-bad-rows the first says why"):
        read_table(lines, skip_bad_rows=True)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,y\n", encoding="utf-8-sig")
    assert len(read_table(path, test_fraction=0).splits["train"]) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"text,label\n", "no rows"),
        ("t.csv", b"text,label\na,x\n,y\n", r"line 3: column 'text' is ''"),
        ("t.csv", b"text,label\na\n", r"line 2: column 'label' is None"),
        ("t.csv", b"text,label\na,x\nb,x\n", r"classes \['x'\]"),
        ("t.csv", b"text,label\n\xff\xfe,x\n", "is not UTF-8 text"),
        ("t.jsonl", b'{"text": "a", "label": "x"}\n{"text"\n', "line 2: is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1: is not a JSON object; give one a line, and no list around"),
        ("t.json", b'[{"text": "a"},\n', "is not JSON .*; give one object a line, and no list"),
        ("t.jsonl", b'{"text": "a", "label": true}\n', "column 'label' is True"),
        ("t.jsonl", b'{"text": "a", "label": null}\n', "column 'label' is None"),
        ("t.xlsx", b"", r"ending '.xlsx' is unknown"),
        ("absent/t.csv", None, r"cannot be read \(No such file"),
    ],
)
def test_bad_files_are_named_with_line_and_reason(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_table(path, test_fraction=0)
    assert path.stem in str(error.value)


def test_impossible_fractions_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"test_fraction=1 must be at least 0 and below 1"):
        read_table(path, test_fraction=1)
    with pytest.raises(ValueError, match=r"4 rows cannot be divided with test_fraction=0.01"):
        read_table(path, test_fraction=0.01)


def test_bad_rows_are_counted_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\n,y\nb,\nc,y\n")
    with pytest.raises(ValueError, match=r"t.csv, line 3: column 'text' is ''.*--skip-bad-rows"):
        read_table(path, test_fraction=0)
    task = read_table(path, test_fraction=0, skip_bad_rows=True)
    assert task.num_bad == 2
    assert task.splits["train"].to_dict() == {
        "id": ["2", "5"],
        "text": ["a", "c"],
        "label": [0, 1],
    }
    path.write_text("text,label\na,\n,y\n")
    with pytest.raises(ValueError, match="the file has no rows but 2 bad ones"):
        read_table(path, test_fraction=0, skip_bad_rows=True)
