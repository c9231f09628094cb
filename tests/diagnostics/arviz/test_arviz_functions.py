"""ArviZ's own functions read what to_arviz makes, of 0.2x and of 1.x; needs no torch."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from blob_pyro.diagnostics import to_arviz
from blob_pyro.diagnostics.arviz.psis import is_arviz_1

mpl.use("agg")
az = pytest.importorskip("arviz")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning"),
    # 1.x recommends plots of discrete data, which follow.
    pytest.mark.filterwarnings("ignore:Variables labels in:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
K, N, C = 100, 10, 2
SHORT = [f"model.layers.{i}.q_proj" for i in range(2)]
SITES = [f"base_model.model.{name}.lora_A.weight" for name in SHORT]


@pytest.fixture(scope="module")
def data() -> Any:
    """Two fits of a two-class problem; only the first site has a say in the log prior."""
    rng = np.random.default_rng(0)
    labels = rng.integers(C, size=N)
    fits, draws, log_prior = [], [], []
    for _ in range(2):
        logits = np.eye(C)[labels] + 0.3 * rng.normal(size=(K, N, C))
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        log_lik = log_p[:, np.arange(N), labels]
        fits.append({"logits": logits, "labels": labels, "log_likelihood": log_lik})
        draws.append({site: rng.normal(scale=0.2, size=(K, 2, 3)) for site in SITES})
        log_prior.append({SITES[0]: -0.5 * (draws[-1][SITES[0]] ** 2).sum((1, 2)) / 0.04})
    return to_arviz(fits, posterior=draws, log_prior=log_prior, class_names=["no", "yes"])


def axes_of(plot: Any) -> list[Any]:
    """The axes of either line's plots: arrays of them, or a collection."""
    return list(np.ravel(plot)) if not is_arviz_1() else [plot.viz]


def test_summary_and_rhat(data: Any) -> None:
    table = az.summary(data)
    assert [*table.index][:2] == ["model.layers.0.q_proj[0, 0]", "model.layers.0.q_proj[0, 1]"]
    assert len(table) == 2 * 2 * 3
    assert float(az.rhat(data)[SHORT[0]].max()) < 1.1


def test_plot_forest_of_a_row_of_a_layer(data: Any) -> None:
    plot = az.plot_forest(data, var_names=[SHORT[0]], coords={"rank": 0}, combined=True)
    assert axes_of(plot)


def test_predictive_checks(data: Any) -> None:
    if not is_arviz_1():
        assert axes_of(az.plot_ppc(data, var_names=["labels"], num_pp_samples=20))
        return
    assert axes_of(az.plot_ppc_dist(data, var_names=["labels"], num_samples=20))
    # The calibration plot of 1.x wants a binary outcome under each draw.
    assert axes_of(az.plot_ppc_pava(data, var_names=["labels"]))


def test_loo_pit(data: Any) -> None:
    if is_arviz_1():
        assert axes_of(az.plot_loo_pit(data, var_names=["labels"]))
    else:
        assert axes_of(az.plot_loo_pit(data, y="labels"))


def test_prior_sensitivity_moves_only_what_the_prior_moves(data: Any) -> None:
    name = {"group": "prior"} if is_arviz_1() else {"component": "prior"}
    values = az.psens(data, **name) if not is_arviz_1() else az.psense(data, **name)
    moved, not_moved = (float(np.abs(values[site]).mean()) for site in SHORT)
    assert moved > 1.5 * not_moved
