from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.benchmark import Cell, latex_table, markdown_table, read_config, summary


@pytest.fixture
def rows(content: Any, write: Any) -> Any:
    """Made-up results: mle is the more accurate one, blob the better calibrated one."""
    config = read_config(write(content))
    results: dict[Cell, Any] = {}
    config = config.changed(methods={name: config.methods[name] for name in ("mle", "blob")})
    for seed in config.seeds:
        values = {"accuracy": 0.6 + 0.02 * seed, "ece": 0.2, "nll": 1.5, "brier": 0.6}
        better = {**values, "accuracy": 0.5, "ece": 0.1 + 0.01 * seed, "nll": 1.0}
        results[Cell("mle", "openbookqa", seed)] = {"metrics": {"0": {"openbookqa": values}}}
        results[Cell("blob", "openbookqa", seed)] = {
            "metrics": {draws: {"openbookqa": better} for draws in ("0", "2")}
        }
    return summary(config, results, "openbookqa", "openbookqa")


def test_means_and_deviations_are_in_percent(rows: Any) -> None:
    # Two seeds: the deviation is the difference over the root of two.
    assert rows["mle"]["accuracy"] == pytest.approx((61.0, 2 / 2**0.5))
    assert rows["blob, K = 2"]["ece"] == pytest.approx((10.5, 1 / 2**0.5))
    assert rows["mle"]["nll"] == (1.5, 0.0)
    assert "brier" not in rows["mle"]


def test_the_best_of_each_column_is_bold(rows: Any) -> None:
    del rows["blob, K = 0"]
    header, _, mle, blob = markdown_table(rows).splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["", "ACC", "ECE", "NLL"]
    cells = [cell.strip() for cell in f"{mle}{blob}".split("|") if cell.strip()]
    assert cells == [
        "mle", "**61.00 ± 1.41**", "20.00 ± 0.00", "1.50 ± 0.00",
        "blob, K = 2", "50.00 ± 0.00", "**10.50 ± 0.71**", "**1.00 ± 0.00**",
    ]  # fmt: skip
    assert latex_table(rows).splitlines()[4:6] == [
        r"mle & $\mathbf{61.00 \pm 1.41}$ & $20.00 \pm 0.00$ & $1.50 \pm 0.00$ \\",
        r"blob, K = 2 & $50.00 \pm 0.00$ & $\mathbf{10.50 \pm 0.71}$ & $\mathbf{1.00 \pm 0.00}$ \\",
    ]


def test_one_seed_has_no_standard_deviation() -> None:
    rows = {name: {"ece": (ece, float("nan"))} for name, ece in (("mle", 20.0), ("blob", 10.0))}
    assert [line.split("|")[2].strip() for line in markdown_table(rows).splitlines()[2:]] == [
        "20.00",
        "**10.00**",
    ]
