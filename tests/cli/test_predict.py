from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.cli import predict as predict_module
from blob_pyro.cli import terminal
from blob_pyro.tasks import helpdesk

TEXTS = helpdesk().splits["test"]["text"]


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_pipe_is_answered_as_it_goes_until_a_bad_line(posterior: str) -> None:
    command = [sys.executable, "-m", "blob_pyro", "predict", posterior, "-", "--batch-size", "8"]
    process = subprocess.Popen(
        [*command, "--num-samples", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    texts = [TEXTS[i % len(TEXTS)] for i in range(304)]
    lines = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)]
    answers = []
    for start in range(0, len(lines), 8):
        process.stdin.writelines(lines[start : start + 8])
        process.stdin.flush()
        # While the pipe is open: this would wait for ever if answers were kept back.
        answers += [json.loads(process.stdout.readline()) for _ in range(8)]
    output, errors = process.communicate("the login\n{broken\nnever read\n", timeout=120)
    answers += rows_of(output)
    assert [row["text"] for row in answers] == [*texts, "the login"]
    assert [row.get("id") for row in answers] == [*range(304), None]
    # The same functions from first to last: text i is text i + 200.
    for early, late in zip(answers, answers[200:304], strict=False):
        assert early["probabilities"] == pytest.approx(late["probabilities"], rel=1e-4)
    assert process.returncode == 2
    assert "blob-pyro: standard input, line 306: is not a JSON object" in errors
    assert "Traceback" not in errors


def test_a_stream_and_arguments_have_the_same_answers(
    posterior: str, invoke: Callable[..., Any]
) -> None:
    texts = ["the printer", "my login"]
    options = ("--num-samples", "3", "--seed", "4")
    given = invoke("predict", posterior, *texts, *options, "--json")
    assert given.exit_code == 0, given.output
    for dash in ([], ["-"]):
        piped = invoke("predict", posterior, *dash, *options, stdin="\n".join(texts).encode())
        assert piped.stdout == given.stdout
    other = invoke("predict", posterior, *texts, "--num-samples", "3", "--seed", "5", "--json")
    assert other.stdout != given.stdout
    one_by_one = invoke("predict", posterior, *texts, *options, "--json", "--batch-size", "1")
    for row, wanted in zip(rows_of(one_by_one.stdout), rows_of(given.stdout), strict=True):
        assert row["probabilities"] == pytest.approx(wanted["probabilities"], rel=1e-4)
        assert row["class"] == wanted["class"]


def test_an_empty_stream_has_no_answers(posterior: str, invoke: Callable[..., Any]) -> None:
    result = invoke("predict", posterior, "-", stdin=b"\n\n")
    assert (result.exit_code, result.stdout) == (0, "")


def test_nothing_is_read_from_a_terminal_by_surprise(
    posterior: str, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(predict_module, "sys", type("Sys", (), {"stdin": Terminal}))
    result = invoke("predict", posterior)
    assert result.exit_code == 2
    assert "there is nothing to classify; give TEXTS, or pipe lines into it" in result.stderr


def test_what_is_no_text_by_mistake_is_named(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    table = tmp_path / "tickets.csv"
    table.write_text("text\nno toner\n")
    named = invoke("predict", posterior, str(table), "--num-samples", "2", "--json")
    assert rows_of(named.stdout)[0]["text"] == str(table)
    assert f"{table} is a file, but its name is classified here" in named.stderr
    empty = invoke("predict", posterior, " ", "--num-samples", "2")
    assert empty.exit_code == 2
    assert "text 1: 'text' is ' '; helpdesk needs a text there" in empty.stderr


def test_pairs_are_no_arguments(saved: Any, invoke: Callable[..., Any]) -> None:
    folder = saved(replace(helpdesk(), prompt="{text} and {text_pair} is about"))
    result = invoke("predict", folder, "it rains")
    assert result.exit_code == 2
    assert "helpdesk classifies pairs of texts; pipe JSON objects with text" in result.stderr
    line = b'{"text": "the login", "text_pair": "my phone"}\n'
    (row,) = rows_of(invoke("predict", folder, "-", stdin=line).stdout)
    assert (row["text"], row["text_pair"]) == ("the login", "my phone")


def test_a_reader_that_has_had_enough_is_no_mistake(
    posterior: str, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(terminal, "print", closed, raising=False)
    result = invoke("predict", posterior, "-", stdin=b"the login\n")
    assert result.exit_code == 1
    assert "Broken pipe" not in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "Input tag 'other' found using 'kind'"),
        ({"class_names": "abc"}, "class_names='abc': give a list"),
        ({"class_names": ["a", "b"]}, "where 10 names are needed"),
        ({"scoring": "head"}, "answered by 'head', is not that of its LabelTokenClassifier"),
        ({"kind": "questions", "name": "openbookqa"}, "questions.class_names is unknown"),
        ({"prompt": None}, "prompt=None: give a text"),
    ],
)
def test_an_altered_record_of_the_task_is_refused(
    change: dict[str, Any], message: str, posterior: str, invoke: Callable[..., Any]
) -> None:
    path = Path(posterior) / "posterior_config.json"
    config = json.loads(path.read_text())
    config["task"].update(change)
    path.write_text(json.dumps(config))
    result = invoke("predict", posterior, "text")
    assert result.exit_code == 2
    assert "posterior_config.json" in result.stderr
    assert message in result.stderr
