"""One look for all plots, legible in grey and for colour-blind readers."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("blob_pyro.mplstyle")


class Series(NamedTuple):
    """How one series is drawn: each attribute alone tells the series apart.

    Parameters
    ----------
    color
        Hexadecimal colour of Okabe and Ito's palette.
    marker, linestyle, hatch
        As in matplotlib.

    Examples
    --------
    >>> series(0).marker
    'o'
    """

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]]
    hatch: str

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of a line with markers."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.linestyle}

    def area(self, alpha: float) -> dict[str, Any]:
        """Keywords of a hatched area, the fill of which is pale."""
        return {"facecolor": (self.color, alpha), "edgecolor": self.color, "hatch": self.hatch}


# Neighbours differ in lightness too, so that two or three series stay apart in grey.
SERIES = (
    Series("#0072B2", "o", "-", "////"),
    Series("#E69F00", "s", "--", "...."),
    Series("#000000", "^", ":", "\\\\\\\\"),
    Series("#CC79A7", "D", "-.", "xxxx"),
    Series("#009E73", "v", (0, (5, 1, 1, 1, 1, 1)), "++++"),
    Series("#56B4E9", "P", (0, (8, 2)), "||||"),
)


def series(index: int) -> Series:
    """Give the look of a series by its number, from 0; it repeats after six.

    Examples
    --------
    >>> series(6) == series(0)
    True
    """
    return SERIES[index % len(SERIES)]


def plot_style() -> AbstractContextManager[None]:
    """Draw in the style of this library inside a ``with`` block.

    The plots of this package use it by themselves; use it to make axes that match.

    Examples
    --------
    >>> import matplotlib
    >>> with plot_style():
    ...     matplotlib.rcParams["axes.spines.top"]
    False

    References
    ----------
    Okabe and Ito (2008), "Color universal design".
    """
    return plt.style.context(STYLE)


@contextmanager
def styled_axes(ax: Axes | None) -> Iterator[Axes]:
    """Draw in this style, in the axes that a caller passed or in those of a new figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> with styled_axes(None) as ax, styled_axes(ax) as same:
    ...     same is ax
    True
    """
    with plot_style():
        yield plt.subplots(layout="constrained")[1] if ax is None else ax


def name_ticks(ax: Axes, names: Sequence[str]) -> None:
    """Write names under the places 0, 1, ..., aslant where they are long."""
    long = sum(map(len, names)) > 40
    aslant: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
    ax.set_xticks(range(len(names)), names, **aslant)
