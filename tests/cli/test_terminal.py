"""Nothing that a user's data hold controls the terminal."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.cli import main
from blob_pyro.cli.terminal import print_json, print_table, print_warning, say, visible
from blob_pyro.tasks import helpdesk

# Clears the screen, C1's form of it, and text that runs backwards.
EVIL = "\x1b[2J\x9b2J\u202ecba\u2066[red]:smile:"
REORDER = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_safe(text: str) -> bool:
    return all(
        character in "\n\t"
        or (
            unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
            and unicodedata.bidirectional(character) not in REORDER
        )
        for character in text
    )


def test_every_character_is_told_as_unicode_tells_it() -> None:
    for number in range(sys.maxunicode + 1):
        assert is_safe(visible(chr(number))), hex(number)
    for text in ("ünï [a] \"b\" 'c' \\n", "a\tb\nc", "a\u200cb", "👩\u200d💻", "日本"):
        assert visible(text) == text


def test_what_is_printed_is_safe_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{EVIL} of {'long ' * 60}end")
    print_warning(UserWarning(EVIL))
    print_table([EVIL], [[EVIL]])
    print_json({EVIL: [EVIL]})
    printed = capsys.readouterr()
    assert is_safe(printed.out)
    assert is_safe(printed.err)
    assert printed.err.count("\n") == 2
    for text in (printed.err.splitlines()[0], printed.err.splitlines()[1], printed.out):
        assert "\\u001b[2J\\u009b2J\\u202ecba\\u2066[red]:smile:" in text
    assert json.loads(printed.out.splitlines()[-1]) == {EVIL: [EVIL]}


def test_a_long_name_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["", "examples"], [["n" * 300, "1"]])
    assert capsys.readouterr().out.count("n") == 300


def test_a_name_is_not_broken_for_the_sake_of_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    numbers = ["0.910 [0.855, 0.960]"] * 4
    print_table(["", "examples", "a", "b", "c", "d"], [["more_tickets", "100", *numbers]])
    printed = capsys.readouterr().out
    assert " more_tickets " in printed
    assert max(map(len, printed.splitlines())) == 80


def test_names_from_a_posterior_and_its_texts_are_safe(
    saved: Callable[..., str], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    # The words are what the tokenizer knows; the names are anybody's.
    task = replace(
        helpdesk(),
        name=f"desk{EVIL}",
        class_names=tuple(f"{name}{EVIL}" for name in helpdesk().class_names),
        words=helpdesk().class_names,
    )
    folder = saved(task)
    path = tmp_path / f"own{EVIL}.csv"
    path.write_text(f"text,label\nthe login{EVIL},{task.class_names[0]}\n")
    for arguments in (
        ("predict", folder, f"the login {EVIL}", "--num-samples", "2"),
        ("predict", folder, f"the login {EVIL}", "--num-samples", "2", "--json"),
        ("evaluate", folder, "--data", str(path), "--num-samples", "2"),
        ("evaluate", folder),
        ("predict", EVIL, "text"),
        ("evaluate", folder, "--data", f"{EVIL}.csv"),
    ):
        result = invoke(*arguments)
        assert is_safe(result.output), arguments
        assert "\\u001b" in result.output


@pytest.mark.parametrize(
    "arguments", [["train", "--output-dir", "x", EVIL], ["train", f"--{EVIL}"]]
)
def test_wrong_arguments_are_safe(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["blob-pyro", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert is_safe(printed.out + printed.err)
    assert "[red]:smile:" in printed.err


def test_the_command_alone_gives_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["blob-pyro"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert "Fine-tune a causal LM" in printed.out + printed.err
