from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blob_pyro.tasks import class_values, read_table, texts_of

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


def test_columns_of_one_name_are_no_texts() -> None:
    frame = pandas.DataFrame([["no toner", "locked out"]] * 2, columns=["text", "text"])
    with pytest.raises(ValueError, match="several columns 'text'"):
        texts_of(frame)


def test_whole_numbers_beyond_int64_are_not_rounded() -> None:
    names = ["0", str(2**63 + 1)]
    assert [str(value) for value in class_values(names)] == names


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "body", "queue")
    assert len(read_table(path, "body", "queue", test_fraction=0).splits["train"]) == 4
    for skip in (False, True):
        with pytest.raises(
            ValueError, match=r"t.csv: has no column 'text' but \['body', 'queue'\]"
        ):
            read_table(path, skip_bad_rows=skip)
    divided = tmp_path / "divided.csv"
    divided.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(ValueError, match=r"has no column 'text' but \['body', 'queue'\]"):
        read_table(divided)
    with pytest.raises(ValueError, match=r"--text-column, --label-column\)$"):
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
        ("t.csv", b"text,label\na\n", "line 2: has 1 cells, but the header has 2"),
        ("t.csv", b"text,label\na,x\nb,x\n", r"classes \['x'\]"),
        ("t.csv", b"text,label\n\xff\xfe,x\n", "is not UTF-8 text"),
        ("t.jsonl", b'{"text": "a", "label": "x"}\n{"text"\n', "line 2: is not a JSON object"),
        (
            "t.jsonl",
            b"[1]\n",
            "line 1: is not a JSON object .*; give one a line, and no list around",
        ),
        ("t.json", b'[{"text": "a"},\n', "is not a JSON object .*; give one a line, and no list"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nhello, I am out,login\n", "line 2: has 3 cells, but the header has 2"),
        ("text,label\na,x\n\nb\n", "line 4: has 1 cells, but the header has 2"),
        ('text,label\na,x\n"b,y\nc,x\nd,y\n', "line 3: the row that begins here cannot be read"),
        ('text,label\n"b,y\nc,x\n"d, e",y\n', "line 2: the row that begins here cannot be read"),
        ('text,label\n"b,y\nc,x"\nd,y\n', "line 2: the row that begins here goes on to line 3"),
        ("text,text,label\na,b,x\n", "the column 'text' is twice in the header"),
        (f"text,label\na,x\n{'b' * 131_073},x\n", r"line 3: .*field larger than field limit"),
        ("text,label\na,x\nb\0,y\n", "line 3: is not UTF-8 text .a zero byte"),
        ("text,label\ra,x\rb,\r", "line 3: column 'label' is ''"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_row_that_may_be_misread_is_refused(
    tmp_path: Path, content: str, message: str, skip: bool
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content, encoding="utf-8", newline="")
    if skip and "line" in message and ("cells, but" in message or "column" in message):
        with pytest.raises(ValueError, match=r"no rows but 1 bad|needs at least two"):
            read_table(path, test_fraction=0, skip_bad_rows=True)
        return
    with pytest.raises(ValueError, match=f"t.csv.*{message}"):
        read_table(path, test_fraction=0, skip_bad_rows=skip)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, newline: str, delimiter: str, encoding: str
) -> None:
    lines = ["id,label,text", '1,x,"a; b, c\td"', "", '2,y,"say ""e""\nf"', "3,x,g"]
    content = newline.join(lines).replace(",", delimiter).replace(f"b{delimiter} c", "b, c")
    path = tmp_path / "t.csv"
    path.write_bytes(content.replace("3,x", f"3{delimiter}x").encode(encoding))
    data = read_table(path, test_fraction=0).splits["train"]
    assert data["text"] == ["a; b, c\td", 'say "e"\nf', "g"]
    assert data["id"] == ["2", "4", "6"]
    assert data["label"] == [0, 1, 0]


CELLS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8
).filter(str.strip)


@given(rows=st.lists(st.tuples(CELLS, st.sampled_from(["x", "y"])), min_size=1))
@settings(deadline=None, max_examples=60)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    rows = [("first", "x"), ("second", "y"), *rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
        data = read_table(path, test_fraction=0).splits["train"]
    assert data["text"] == [text.strip() for text, _ in rows]
    assert data["label"] == ["xy".index(label) for _, label in rows]


def test_a_repeated_key_and_one_column_for_both_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "x", "label": "y"}\n')
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: .*the key 'label' is twice"):
        read_table(path, test_fraction=0)
    with pytest.raises(ValueError, match="'text' cannot be the text column and the label column"):
        read_table(path, "text", "text")


def test_a_quote_that_swallows_a_row_and_ends_well_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('text,label\na,x\n"hello,x\nsize 5",y\n')
    with pytest.warns(UserWarning, match="line 3: .* seems to hold further rows"):
        read_table(path, test_fraction=0)


@pytest.mark.parametrize("other", ["Login", "\uff4cogin", "lo\u200bgin", "\ufeffLOGIN"])
def test_classes_that_look_alike_are_warned_of(tmp_path: Path, other: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\na,login\nb,{other}\nc,printing\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="look alike"):
        read_table(path, test_fraction=0)


def test_texts_in_both_splits_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "a,x\nb,y\n" * 4)
    with pytest.warns(UserWarning, match="test: 4 of 4 examples are in the training data too"):
        read_table(path, test_fraction=0.5)


def test_known_classes_need_not_all_occur(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,y\nb,y\n")
    task = read_table(path, test_fraction=0, class_names=["z", "x", "y"])
    assert task.class_names == ("z", "x", "y")
    assert task.splits["train"]["label"] == [2, 2]
    with pytest.raises(ValueError, match=r"line 2: the label 'y' is not one of the classes \['x'"):
        read_table(path, test_fraction=0, class_names=["x", "z"])


def test_whole_numbers_are_in_their_own_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,10\nb,9\n")
    assert read_table(path, test_fraction=0).class_names == ("9", "10")


def test_a_pipe_is_refused_where_it_would_be_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tickets.csv")
    with pytest.raises(ValueError, match=r"tickets\.csv: is not a regular file"):
        read_table(tmp_path / "tickets.csv")
