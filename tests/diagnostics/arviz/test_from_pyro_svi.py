"""The converter alone, on plain Pyro programs."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import blob_pyro
from blob_pyro.diagnostics import from_pyro_svi

az = pytest.importorskip("arviz")
FILE = Path(blob_pyro.__file__).parent / "diagnostics" / "arviz" / "from_pyro_svi.py"
K, N = 200, 40


def test_the_file_stands_alone() -> None:
    code = (
        "import sys, importlib.util as u\n"
        "for name in ('blob_pyro', 'pyro'): sys.modules[name] = None\n"
        f"spec = u.spec_from_file_location('alone', {str(FILE)!r})\n"
        "alone = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(alone)\n"
        "data = alone.from_pyro_svi([{'a': [0.5, 0.6]}, {'a': [0.7, 0.8]}])\n"
        "assert dict(data.posterior.sizes) == {'chain': 2, 'draw': 2}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def standalone() -> Any:
    spec = importlib.util.spec_from_file_location("alone", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.from_pyro_svi


@pytest.fixture(scope="module")
def fit() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A Gaussian mean under its conjugate prior, fitted by stock Pyro; draws, and the data."""
    pyro.set_rng_seed(0)
    observed = 1.5 + torch.randn(N)

    def model(y: torch.Tensor | None = None) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=10))
    for _ in range(300):
        svi.step(observed)
    draws = Predictive(model, guide=guide, num_samples=K, return_sites=("mean", "y"))()
    return {"mean": draws["mean"].reshape(K), "y": draws["y"]}, observed


def test_a_plain_svi_fit_becomes_an_arviz_object(fit: Any, tmp_path: Path) -> None:
    draws, observed = fit
    log_lik = dist.Normal(draws["mean"][:, None], 1.0).log_prob(observed)
    data = standalone()(
        {"mean": draws["mean"]},
        posterior_predictive={"y": draws["y"]},
        log_likelihood={"y": log_lik},
        observed_data={"y": observed},
        constant_data={"id": [f"row {n}" for n in range(N)]},
        dims={"y": ["example"], "id": ["example"]},
        coords={"example": np.arange(N) + 100},
    )
    # 4.5 standard errors of the mean of draws, and 0.05 for Adam: the exact posterior's scale.
    scale = 1 / np.sqrt(N + 0.01)
    centre = float(observed.sum()) * scale**2
    assert abs(float(data.posterior["mean"].mean()) - centre) < 4.5 * scale / K**0.5 + 0.05
    assert data.posterior_predictive["y"].dims == ("chain", "draw", "example")
    assert data.observed_data["example"].values.tolist() == [*range(100, 100 + N)]
    assert data.attrs["inference_library"] == "pyro"
    assert [*az.summary(data, kind="stats").index] == ["mean"]
    # With one observation of a parameter left out the elpd is close to the mean's own.
    loo = az.loo(data, var_name="y", reff=1.0)
    elpd = float(loo["elpd_loo"] if "elpd_loo" in dir(loo) else loo.elpd)
    assert abs(elpd - float(log_lik.exp().mean(0).log().sum())) < 2.0
    data.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(again.posterior["mean"], data.posterior["mean"])


def test_new_data_have_dimensions_of_their_own(fit: Any) -> None:
    draws, _ = fit
    data = from_pyro_svi(
        [{"mean": draws["mean"]}] * 2,
        predictions=[{"y": draws["y"][:, :3]}] * 2,
        prior={"mean": np.zeros(7)},
        dims={"y": ["example"]},
        pred_dims={"y": ["new_example"]},
    )
    assert data.predictions["y"].dims == ("chain", "draw", "new_example")
    assert data.posterior.sizes["chain"] == 2
    assert data.prior.sizes["draw"] == 7


def test_draws_that_do_not_belong_together_are_refused(fit: Any) -> None:
    draws, _ = fit
    with pytest.raises(ValueError, match=r"'y' has shape .*start with \(chain=1, draw=200\)"):
        from_pyro_svi({"mean": draws["mean"]}, posterior_predictive={"y": draws["y"][:9]})
