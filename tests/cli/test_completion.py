from __future__ import annotations

import pytest
from typer.testing import CliRunner

from blob_pyro.cli import app

# Else it looks for the shell that runs the tests, which need not be one.
NAMED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "COLUMNS": "220"}


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)


def test_completion_is_offered() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "--install-completion" in result.stdout
    assert "--show-completion" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_blob_pyro(shell: str) -> None:
    result = CliRunner().invoke(app, ["--show-completion", shell], prog_name="blob-pyro")
    assert result.exit_code == 0, result.output
    assert f"_BLOB_PYRO_COMPLETE=complete_{shell}" in result.stdout


@pytest.mark.parametrize(
    ("typed", "wanted"), [("blob-pyro ev", "evaluate"), ("blob-pyro train --recipe pa", "paper")]
)
def test_commands_and_values_are_completed(typed: str, wanted: str) -> None:
    words = len(typed.split()) - 1
    asked = {"_BLOB_PYRO_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(words)}
    result = CliRunner().invoke(app, [], prog_name="blob-pyro", env=asked)
    assert result.stdout.split() == [wanted]
