"""Tables in, the same tables with answers out: nothing of a row is lost, and no half of a file."""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from blob_pyro.cli import predict_table as module
from blob_pyro.recipe import Predictions, load
from blob_pyro.tasks import helpdesk
from blob_pyro.tasks.text_files import table_rows

ANSWERS = ["class", "probability", "total_uncertainty", "epistemic_uncertainty"]
TEXTS = [
    "the login",
    "my phone, again",
    'the "printer"',
    "two\nlines",
    "a lone\rreturn",
    "=SUM(A1)",
    " ünï ",
]
OPTIONS = ["--num-samples", "2"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writerows([[*rows[0]], *(row.values() for row in rows)])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file, delimiter=delimiter, strict=True)]


ROWS = [{"id": f"00{n}", "body": text, "label": "", "": "x"} for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize("source", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_row_goes_through_with_its_answer(
    source: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP", 3)
    data, output = write(tmp_path / f"in{source}", ROWS), tmp_path / "new" / f"out{target}"
    module.check_files(data, output, overwrite=False)
    module.predict_table(by_length, data, output, ["body"], skip_bad_rows=False)
    rows = read(output)
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    assert [*rows[0]] == [*ROWS[0], *ANSWERS]
    wanted = by_length([{"text": text.strip()} for text in TEXTS]).to_pandas()
    for name in ANSWERS:
        found = [type(value)(row[name]) for row, value in zip(rows, wanted[name], strict=True)]
        assert found == [*wanted[name]], name
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def by_length(texts: list[dict[str, Any]]) -> Predictions:
    """A classifier of texts by their length."""
    logits = np.array([[[len(row["text"]), 7.3] for row in texts]], dtype=np.float32)
    labels, ids = np.full(len(texts), -1), np.arange(len(texts)).astype(str)
    texts_only = tuple(row["text"] for row in texts)
    return Predictions(logits, labels, ids, ("long", "short"), texts_only)


def test_the_command_answers_as_the_object_does(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    data, output = write(tmp_path / "in.csv", ROWS), tmp_path / "out.csv"
    options = [*OPTIONS, "--data", str(data), "--text-column", "body", "--output", str(output)]
    result = invoke("predict", posterior, *options, "--defer-below", "0.2")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert f"wrote {output}, 7 rows" in result.stderr
    predicted = load(posterior).predictive([text.strip() for text in TEXTS], num_samples=2)
    wanted = replace(predicted, threshold=0.2).to_pandas().drop(columns="text")
    found = pandas.read_csv(output)[[*wanted.columns]]
    pandas.testing.assert_frame_equal(found, wanted.reset_index(drop=True), rtol=1e-4)
    before = output.read_bytes()
    result = invoke("predict", posterior, *options)
    assert result.exit_code == 2
    assert "exists; give another file, or --overwrite to replace it" in result.stderr
    assert output.read_bytes() == before
    assert invoke("predict", posterior, *options, "--overwrite").exit_code == 0
    assert "decision" not in read(output)[0]


def test_pairs_have_a_second_column(saved: Any, tmp_path: Path, invoke: Callable[..., Any]) -> None:
    folder = saved(replace(helpdesk(), prompt="{text} and {text_pair} is about"))
    rows = [{"text": "the login", "text_pair": "my phone"}]
    data, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    options = [*OPTIONS, "--data", str(data), "--output", str(output)]
    assert invoke("predict", folder, *options).exit_code == 0
    line = json.dumps(rows[0]).encode()
    streamed = json.loads(invoke("predict", folder, "-", *OPTIONS, stdin=line).stdout)
    (row,) = read(output)
    assert (row["class"], row["text_pair"]) == (streamed["class"], "my phone")
    assert row["probability"] == pytest.approx(max(streamed["probabilities"].values()), rel=1e-4)
    write(data, [{"text": "the login"}])
    result = invoke("predict", folder, *options, "--overwrite")
    assert "line 1: has no column 'text_pair'" in result.stderr


def predict_rows(rows: list[dict[str, Any]], output: Path, **options: Any) -> None:
    data = write(output.with_name("in.jsonl"), rows)
    module.predict_table(by_length, data, output, ["text"], **{"skip_bad_rows": False} | options)


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        ([{"text": "a"}, {"text": " "}], "o.csv", "line 2: column 'text' is ' '; .* --skip-bad"),
        ([{"text": "a"}, {"text": None}], "o.csv", "line 2: column 'text' is None"),
        ([{"text": "a"}, {"body": "b"}], "o.jsonl", "line 2: has no column 'text' but .'body'"),
        ([{"text": "a", "class": 1}], "o.csv", "line 1: column 'class' cannot be kept, the answ"),
        ([{"text": "a"}, {"text": "b", "decision": 1}], "o.jsonl", "line 2: column 'decision'"),
        (
            [{"text": "a"}, {"text": "b", "n": 1}],
            "o.csv",
            "line 2: has the columns .*ends in .json",
        ),
        ([{"text": "a", "n": 1}, {"text": "b", "n": "x"}], "o.parquet", "of several types"),
        ([{"text": "a", "n": 10**30}], "o.parquet", "too large"),
        ([], "o.csv", "in.jsonl: the file has no rows$"),
    ],
)
def test_what_cannot_be_answered_or_written_is_refused_and_leaves_nothing(
    rows: list[dict[str, Any]],
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GROUP", 1)
    with pytest.raises(ValueError, match=message):
        predict_rows(rows, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_bad_rows_are_left_out_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.csv"
    predict_rows([{"text": ""}, {"text": "a"}, {"text": None}], output, skip_bad_rows=True)
    assert [row["text"] for row in read(output)] == ["a"]
    assert "1 rows; 2 bad rows skipped" in capfd.readouterr().err
    with pytest.raises(ValueError, match="has no rows but 1 bad ones"):
        predict_rows([{"text": ""}], output, skip_bad_rows=True)
    assert [row["text"] for row in read(output)] == ["a"]


def test_rows_of_json_lines_may_differ(tmp_path: Path) -> None:
    rows = [{"text": "a", "tags": ["x", 1]}, {"n": 2.5, "text": "b"}]
    predict_rows(rows, tmp_path / "o.jsonl")
    kept = [
        {name: value for name, value in row.items() if name not in ANSWERS}
        for row in read(tmp_path / "o.jsonl")
    ]
    assert kept == rows
    predict_rows(rows[:1], tmp_path / "o.csv")
    assert read(tmp_path / "o.csv")[0]["tags"] == '["x", 1]'


def test_objects_of_json_lines_lose_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 1)
    rows = [{"text": "a", "about": {"n": 1}}, {"text": "b", "about": {"n": 2, "who": "me"}}]
    predict_rows(rows, tmp_path / "o.parquet")
    found = [json.loads(row["about"]) for row in read(tmp_path / "o.parquet")]
    assert found == [row["about"] for row in rows]


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "text": ["a", "b"],
            "count": pyarrow.array([1, None], pyarrow.int16()),
            "when": pyarrow.array([datetime.datetime(2020, 1, 1)] * 2, pyarrow.timestamp("ns")),
            "kind": pyarrow.array(["x", "y"]).dictionary_encode(),
            "nothing": pyarrow.array([None, None], pyarrow.string()),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "o.parquet"
    module.predict_table(by_length, tmp_path / "in.parquet", output, ["text"], skip_bad_rows=False)
    found = parquet.read_table(output).select(table.column_names)
    assert found.schema.equals(table.schema)
    assert found.equals(table)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_is_read_in_little_memory(suffix: str, tmp_path: Path) -> None:
    text, count = "x" * 1000, 6000
    path = write(tmp_path / f"in{suffix}", [{"text": f"{n} {text}"} for n in range(count)])
    rows: Iterator[Any] = table_rows(path, ["text"])
    # What is imported is no part of it.
    next(rows)
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows) == count - 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Of 6 MB; Parquet is read in batches of 1024 rows.
    assert peak < 3e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "{data}"], "--data and --output go together"),
        (["--output", "{out}"], "--data and --output go together"),
        (["--data", "{data}", "--output", "{out}", "a text"], "without TEXTS and --json"),
        (["--data", "{data}", "--output", "{out}x"], "the ending is unknown; give one of .csv"),
        (["--data", "{data}", "--output", "{data}"], "is the table that is read; give another"),
        (["--data", "{data}x", "--output", "{out}"], "the ending '.csvx' is unknown"),
        (["a", "--defer-below", "0.5", "--max-error", "0.1"], "exclude each other"),
        (["a", "--max-error", "0.1"], "no threshold was chosen for this posterior"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    places = {"{data}": str(write(tmp_path / "in.csv", ROWS)), "{out}": str(tmp_path / "o.csv")}
    for name, place in places.items():
        options = [option.replace(name, place) for option in options]
    result = invoke("predict", posterior, *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", ROWS)
    content = path.read_bytes()
    for damaged in (content[:-20], b"", b"PAR1" + bytes(40) + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"in.parquet: cannot be read"):
            next(itertools.islice(table_rows(path, ["body"]), 1))
