"""The order of the rooms: who may import whom, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blob_pyro"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each may import those before it; tasks and diagnostics stand alone.
STOREYS = ["poutine", "distributions", "lora", "models", "testing", "guides", "infer"]
ALONE = ["tasks", "diagnostics"]
TOP = [
    "networks",
    "files",
    "training",
    "posthoc",
    "recipe",
    "benchmark",
    "cli",
    "__main__",
]
EXEMPT = ["__init__", "settings", "version"]
NOT_ALONE = {"pyro", "peft"}


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, beside itself and what is exempt."""
    if room in ALONE:
        return set()
    if room in STOREYS:
        return set(STOREYS[: STOREYS.index(room)])
    return {*STOREYS, *ALONE, *TOP[: TOP.index(room)]}


def imported(source: str) -> Iterator[str]:
    """Every dotted name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_arrows(room: str, source: str) -> list[str]:
    """The imports of a file that point against the order."""
    wrong = []
    for name in imported(source):
        package, _, rest = name.partition(".")
        if package == "blob_pyro":
            target = rest.partition(".")[0]
            if target not in {room, *allowed(room), *EXEMPT}:
                wrong.append(name)
        elif room in ALONE and package in NOT_ALONE:
            wrong.append(name)
    return wrong


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_has_a_room() -> None:
    assert {room_of(path) for path in FILES} == {*STOREYS, *ALONE, *TOP, *EXEMPT}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_points_the_wrong_way(path: Path) -> None:
    if room_of(path) not in EXEMPT:
        assert wrong_arrows(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("models", "from blob_pyro.guides import LoraGuide", True),
        ("models", "import blob_pyro.guides.lora_guide as g", True),
        ("models", "def f():\n    from blob_pyro import guides", True),
        ("models", "if TYPE_CHECKING:\n    from blob_pyro.infer import x", True),
        ("models", "from blob_pyro import bayesianize", True),
        ("models", "from blob_pyro.lora import bayesianize", False),
        ("poutine", "from blob_pyro.lora import LoraSite", True),
        ("infer", "from blob_pyro.diagnostics import accuracy", True),
        ("infer", "from blob_pyro import models, poutine", False),
        ("tasks", "import peft", True),
        ("tasks", "from transformers import AutoTokenizer", False),
        ("diagnostics", "import pyro.distributions as dist", True),
        ("diagnostics", "from blob_pyro.tasks import helpdesk", True),
        ("files", "from blob_pyro.version import __version__", False),
        ("files", "from blob_pyro.training import fit", True),
        ("training", "from blob_pyro.files import save_posterior", False),
        ("benchmark", "from blob_pyro import cli", True),
        ("cli", "from blob_pyro import benchmark", False),
    ],
)
def test_the_check_sees_a_wrong_arrow(room: str, source: str, wrong: bool) -> None:
    assert bool(wrong_arrows(room, source)) == wrong


@pytest.mark.parametrize("room", ALONE)
def test_a_room_that_stands_alone_imports_without_pyro_and_peft(room: str) -> None:
    code = (
        "import sys, importlib\n"
        "sys.modules['pyro'] = sys.modules['peft'] = None\n"
        f"importlib.import_module('blob_pyro.{room}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
