from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from blob_pyro import load_posterior, save_posterior
from blob_pyro.guides import PointEstimateGuide, TFBGuide, model_at_mean
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.posthoc import to_singular_basis
from blob_pyro.poutine import flipout


@pytest.fixture
def guide(classifier: Any) -> TFBGuide:
    model = classifier("llama").double()
    for site in model.sites.values():
        to_singular_basis(site)
    return TFBGuide(model, update_scale=0.3)


def test_updates_are_isotropic_where_b_reaches(guide: TFBGuide, z_score: Any) -> None:
    # 4 layers, each with 3 variances along its singular vectors and across them, of 16 columns,
    # within 4.5 standard errors: fails 1 seed in 500.
    draws = [guide() for _ in range(1500)]
    for name, site in guide.sites.items():
        left = torch.linalg.svd(site.lora_B.detach(), full_matrices=False).U
        deviation = torch.stack([d[name].detach() for d in draws]) - guide.mean()[name]
        update = site.lora_B.detach() @ deviation
        along = left.mT @ update
        torch.testing.assert_close(left @ along, update)
        products = torch.einsum("kip,kjp->kijp", along, along)
        expected = 0.09 * torch.eye(2, dtype=torch.float64)[..., None].expand(2, 2, 16)
        assert z_score(products, expected) < 4.5


def test_the_scale_is_the_papers(guide: TFBGuide) -> None:
    for name, site in guide.sites.items():
        values = torch.linalg.svdvals(site.lora_B.detach())
        expected = (0.3 / values)[:, None].expand(2, 16)
        torch.testing.assert_close(guide.scale()[name], expected)
        torch.testing.assert_close(guide.site_posterior(name).stddev, expected)


def test_a_column_of_zeros_has_no_spread(classifier: Any) -> None:
    model = classifier("llama")
    for site in model.sites.values():
        site.lora_B.data[:, 1] = 0
    guide = TFBGuide(model)
    for name, scale in guide.scale().items():
        assert (scale[0] > 0).all()
        assert not scale[1].any()
        assert torch.equal(guide()[name][1], guide.mean()[name][1])


def test_flipout_may_flip_its_signs(guide: TFBGuide, token_batch: Any) -> None:
    with flipout():
        assert ReweightedTrace_ELBO(1).loss(guide.model, guide, **token_batch()) > 0


def test_a_saved_posterior_comes_back(classifier: Any, token_batch: Any, tmp_path: Any) -> None:
    model = classifier("bert", "SEQ_CLS")
    base = copy.deepcopy(model.network).unload()
    for site in model.sites.values():
        to_singular_basis(site)
    guide = TFBGuide(model, update_scale=0.1)
    save_posterior(tmp_path / "p", model, guide)
    program = load_posterior(tmp_path / "p", base)
    assert program[1].config() == {"update_scale": 0.1}
    found = [
        posterior_predictive(*p, [token_batch()], 2, 0, progress=False)
        for p in ((model, guide), program)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_it_goes_to_another_dtype(guide: TFBGuide) -> None:
    guide.model.bfloat16()
    guide.bfloat16()
    assert {draw.dtype for draw in guide().values()} == {torch.bfloat16}


@pytest.mark.parametrize("update_scale", [0.0, -1.0, float("inf"), float("nan")])
def test_the_scale_is_positive(update_scale: float, classifier: Any) -> None:
    with pytest.raises(ValueError, match=f"update_scale={update_scale} must be positive and fin"):
        TFBGuide(classifier("llama"), update_scale)


def test_a_latent_b_is_refused(classifier: Any) -> None:
    model = classifier("llama")
    both = model_at_mean(model, PointEstimateGuide(model))
    with pytest.raises(ValueError, match=r"latent=\('A', 'B'\), but the scale of A follows"):
        TFBGuide(both)
