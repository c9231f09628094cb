"""``blob-pyro settings``."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from blob_pyro.recipe import METHODS, Recipe
from blob_pyro.settings import Settings
from blob_pyro.training import TrainingConfig


def settings() -> None:
    """List all settings with default and meaning, for `--set` and for benchmark files."""
    typer.echo(page(), nl=False)


def page() -> str:
    """Write all settings as the page ``docs/settings.md``."""
    lines = ["# Settings", "", *_INTRODUCTION]
    lines += ["## Of a recipe", "", *_table(Recipe, leave_out={"options", "training"})]
    lines += ["", "## Of training", "", *_table(TrainingConfig)]
    for method in METHODS.values():
        if method.options.model_fields:
            lines += ["", f"## Of the method `{method.name}`", ""]
            lines += _table(method.options, prefix="options.")
    return "\n".join([*lines, ""])


_INTRODUCTION = """\
Every setting has one name in Python, in a benchmark's file and on the command line: \
`Recipe(rank=4)`, `rank: 4`, `--set rank=4`. Those of training stand in `Recipe.training`, and \
everywhere else beside the others: `fine_tune(data, num_steps=100)`. `blob-pyro settings` prints \
this page.
""".splitlines()


def _table(
    group: type[Settings], prefix: str = "", leave_out: frozenset[str] | set[str] = frozenset()
) -> Iterator[str]:
    yield "| name | default | meaning |"
    yield "|---|---|---|"
    for name, field in group.model_fields.items():
        if name not in leave_out:
            meaning = " ".join((field.description or "").split()).replace("``", "`")
            yield f"| `{prefix}{name}` | `{field.default}` | {meaning} |"
