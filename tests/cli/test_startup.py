"""Help, version and completion come at once: nothing heavy is imported for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "datasets", "pyro", "peft", "accelerate", "arviz", "numpy"]
COMMANDS = ["demo", "train", "evaluate", "predict", "benchmark", "estimate", "settings"]
CODE = f"""
import sys
from blob_pyro.cli import main
sys.argv[0] = "blob-pyro"
try:
    main()
finally:
    print("heavy:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["settings"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "heavy:"
    assert done.stdout


def test_completion_imports_nothing_heavy() -> None:
    asked = {
        "_BLOB_PYRO_COMPLETE": "complete_bash",
        "COMP_WORDS": "blob-pyro train --set logit",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | asked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["logit_temperature="]
    assert done.stderr.splitlines()[-1] == "heavy:"
