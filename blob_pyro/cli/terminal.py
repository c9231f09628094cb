"""What commands print, and how they end when the user made a mistake.

Class names, texts and file names may come from anybody, so all of them are printed by the
functions here, which show control characters in place of sending them to the terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from blob_pyro.recipe import Predictions

# Escape sequences begin in C0 and C1; the others hide characters or change their order.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Write control characters, but for line ends and tabs, as JSON does.

    Examples
    --------
    >>> print(visible("\x1b[2Jlogin \u202e"))
    \u001b[2Jlogin \u202e
    """
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text)


class _VisibleConsole(Console):
    """Shows strings as they are: no markup, no emoji names, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


# Results alone are on standard output; progress and errors are not.
console = _VisibleConsole(stderr=True)


def say(message: object, style: str | None = None) -> None:
    """Print one line on stderr, however long."""
    console.print(" ".join(str(message).split()), style=style, soft_wrap=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        # Whoever reads our output has had enough, which is not a mistake.
        raise
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        say(f"blob-pyro: {error}", style="red")
        raise typer.Exit(2) from error


def print_warning(message: Warning | str, *_place: object) -> None:
    """Show a warning as one line on stderr, without the place in the code."""
    say(f"blob-pyro: {message}", style="yellow")


def print_text(text: str) -> None:
    """Print lines on standard output, at once: whoever reads a pipe waits for them."""
    print(visible(text), flush=True)


def print_json(row: Mapping[str, Any]) -> None:
    """Print a JSON object on a line of standard output."""
    print_text(json.dumps(row, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows on standard output; short names of rows stay whole."""
    screen = _VisibleConsole()
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    longest = max(len(visible(row[0])) for row in [columns, *rows])
    table.columns[0].no_wrap = longest <= screen.width // 3
    for row in rows:
        table.add_row(*row)
    screen.print(table)


def print_predictions(evaluations: Mapping[str, Predictions]) -> None:
    """Print a data set a row: how many examples, and each metric with its 95 % interval.

    The first is what the others are told from: a second table has the AUROC of each score.
    """
    first, *_ = evaluations.values()
    columns = ["", "examples", *first.metrics()]
    rows = []
    for name, evaluation in evaluations.items():
        cells = [""] * (len(columns) - 2)
        if evaluation.is_labelled:
            # One example has no interval.
            intervals = evaluation.intervals() if len(evaluation.labels) > 1 else {}
            cells = [
                _with_interval(value, intervals.get(metric))
                for metric, value in evaluation.metrics().items()
            ]
        rows.append([name, str(len(evaluation.labels)), *cells])
    print_table(columns, rows)
    if len(evaluations) > 1:
        print_strangers(evaluations)


def print_strangers(evaluations: Mapping[str, Predictions]) -> None:
    """Print how well each score tells the others from the first: an AUROC, and its interval."""
    (own_name, own), *others = evaluations.items()
    rows = {score: [score] for score in own.ood_scores()}
    for _, other in others:
        few = min(len(own.labels), len(other.labels)) < 2
        intervals = {} if few else own.ood_intervals(other)
        for score, area in own.ood_auroc(other).items():
            rows[score].append(_with_interval(area, intervals.get(score)))
    names = [name for name, _ in others]
    print_table([f"AUROC, from {own_name}", *names], [*rows.values()])


def print_thresholds(tested: Predictions) -> None:
    """Print how many examples are answered from each confidence on, and how many of them wrong."""
    from blob_pyro.diagnostics import answer_thresholds

    found = answer_thresholds(tested.logits, tested.labels)
    rows = zip(found.thresholds, found.answered, found.errors, found.bounds, strict=True)
    cells = {
        answered: [
            f"{threshold:.4f}",
            f"{answered / found.num_examples:.1%}",
            f"{errors / answered:.1%} ({errors} of {answered})",
            f"{bound:.1%}",
        ]
        # Every second one from the last, which answers all.
        for threshold, answered, errors, bound in [*rows][::-2]
        if answered
    }
    columns = ["probability at least", "answered", "wrong of them", "at most (0.95 sure)"]
    print_table(columns, [*cells.values()])


def _with_interval(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.3f}" if ends is None else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
