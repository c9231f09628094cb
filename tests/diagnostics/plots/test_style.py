from itertools import combinations

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb

from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import SERIES, STYLE, series


def lightness(color: str) -> float:
    """Relative luminance of sRGB (WCAG), the grey that a printer makes of a colour."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_style_holds_inside_the_block_only() -> None:
    before = dict(mpl.rcParams)
    with plot_style():
        for name, value in mpl.rc_params_from_file(STYLE, use_default_template=False).items():
            assert mpl.rcParams[name] == value
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("field", ["color", "marker", "linestyle", "hatch"])
def test_each_attribute_alone_tells_the_series_apart(field: str) -> None:
    values = [getattr(look, field) for look in SERIES]
    assert all(a != b for a, b in combinations(values, 2))


def test_first_three_series_differ_in_grey() -> None:
    greys = [lightness(look.color) for look in SERIES[:3]]
    for a, b in combinations(greys, 2):
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) > 2.0  # WCAG contrast ratio


def test_series_repeat() -> None:
    assert series(len(SERIES) + 2) == series(2)
