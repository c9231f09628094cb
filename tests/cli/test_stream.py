from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from blob_pyro.cli.predict import in_groups, read_examples
from blob_pyro.tasks import TEXT_TASKS, helpdesk

RTE = TEXT_TASKS["glue_rte"]


def test_a_line_is_a_text_or_an_object() -> None:
    lines = [
        "\ufeffthe printer",
        "",
        '{"text": "my login", "id": 7, "label": "x"}',
        "[a] \"b\" 'ünï'",
    ]
    stream = io.BytesIO("\n".join(lines).encode())
    assert list(read_examples(stream, helpdesk())) == [
        {"text": "the printer"},
        {"text": "my login", "id": 7},
        {"text": "[a] \"b\" 'ünï'"},
    ]


def test_pairs_are_read_where_the_task_has_pairs() -> None:
    line = b'{"text": "it rains", "text_pair": "it is wet"}\n'
    wanted = {"text": "it rains", "text_pair": "it is wet"}
    assert list(read_examples(io.BytesIO(line), RTE)) == [wanted]
    own = replace(helpdesk(), prompt="{text} {text_pair} is about")
    assert list(read_examples(io.BytesIO(line), own)) == [wanted]
    assert list(read_examples(io.BytesIO(line), helpdesk())) == [{"text": "it rains"}]


@pytest.mark.parametrize(
    ("line", "task", "message"),
    [
        (b'{"text": ', helpdesk(), "standard input, line 2: is not a JSON object"),
        (b'{"body": "a"}', helpdesk(), "standard input, line 2: 'text' is None; helpdesk needs a"),
        (b'{"text": " "}', helpdesk(), "line 2: 'text' is ' '; helpdesk needs a text there"),
        (b'{"text": 3}', helpdesk(), "line 2: 'text' is 3"),
        (b'{"text": "\\ud800"}', helpdesk(), "standard input, line 2: is not a JSON object"),
        (b"\xff", helpdesk(), r"standard input, line 2: is not UTF-8 text \(invalid start byte"),
        (b"it rains", RTE, "line 2: 'text_pair' is None; glue_rte needs a text there"),
    ],
)
def test_a_bad_line_is_named(line: bytes, task: Any, message: str) -> None:
    good = b'{"text": "a", "text_pair": "b"}\n'
    with pytest.raises(ValueError, match=message):
        list(read_examples(io.BytesIO(good + line), task))


def test_groups_ask_for_no_more_than_they_give() -> None:
    asked = 0

    def examples() -> Iterator[dict[str, Any]]:
        nonlocal asked
        for number in range(10**9):
            asked += 1
            yield {"text": str(number)}

    groups = in_groups(examples(), 4)
    for count in range(1, 200):
        assert [row["text"] for row in next(groups)] == [str(4 * count + i) for i in range(-4, 0)]
        assert asked == 4 * count


def test_what_came_before_an_error_comes_first() -> None:
    def examples() -> Iterator[dict[str, Any]]:
        yield from ({"text": text} for text in "abc")
        raise ValueError("line 4")

    groups = in_groups(examples(), 2)
    assert [len(next(groups)), len(next(groups))] == [2, 1]
    with pytest.raises(ValueError, match="line 4"):
        next(groups)


def test_a_table_in_the_place_of_texts_is_noticed() -> None:
    stream = io.BytesIO(b"body;queue\nno toner;printing\nhello, world\n")
    with warnings.catch_warnings(record=True, action="always") as caught:
        examples = list(read_examples(stream, helpdesk()))
    assert len(examples) == 3
    hints = [str(warning.message)[:45] for warning in caught]
    assert hints == [
        "standard input, line 1: looks like the header",
        "standard input, line 2: looks like a row of a",
    ]
