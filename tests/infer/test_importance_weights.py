from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal

from blob_pyro.diagnostics import pareto_k
from blob_pyro.guides import LowRankGaussianGuide, MatrixNormalGuide
from blob_pyro.infer import importance_log_weights
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import SequenceClassifier

Tensors = dict[str, torch.Tensor]


def first_entries(model: Any, count: int = 2) -> Tensors:
    name, site = next(iter(model.sites.items()))
    mask = torch.zeros_like(site.projection.initial_weight, dtype=torch.bool)
    mask[0, :count] = True
    return {name: mask}


@pytest.mark.parametrize("kl_scale", [1.0, 0.1])
def test_ratios_against_unmodified_peft(
    kl_scale: float, program: Any, token_batch: Any, peft_logits: Any
) -> None:
    model, guide = program("bert", num_data=4)
    batch, subset = token_batch(4), first_entries(model)
    ((name, mask),) = subset.items()
    got = importance_log_weights(
        model, guide, [batch], subset, 3, seed=1, kl_scale=kl_scale, progress=False
    )
    # The same draws by hand: one draw of the site each.
    torch.manual_seed(1)
    mean, scale = guide.mean(), guide.scale()[name]
    wanted = []
    for _ in range(3):
        draw = mean[name] + scale * torch.randn(scale.shape)
        weights = {**mean, name: torch.where(mask, draw, mean[name])}
        log_p = peft_logits(model, weights, batch).log_softmax(-1)
        likelihood = log_p.gather(1, batch["labels"][:, None]).sum().double()
        chosen = draw[mask].double()
        ratio = Normal(0.0, 0.2).log_prob(chosen)
        ratio = ratio - Normal(mean[name][mask], scale[mask]).log_prob(chosen)
        wanted.append(likelihood / kl_scale + ratio.sum())
    exact = torch.stack(wanted)
    # Up to the constant of the entries that are not chosen.
    assert torch.allclose(got - got[0], exact - exact[0], atol=2e-3)
    assert float((exact - exact[0]).abs().max()) > 0.1


def test_a_guide_that_is_the_prior_of_dead_weights_is_exact(
    peft_network: Any, token_batch: Any
) -> None:
    # With B = 0 the likelihood does not know A, so its posterior is the prior.
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 4)
    guide = LowRankGaussianGuide(model)
    with torch.no_grad():
        for name, site in model.sites.items():
            site.lora_B.zero_()
            guide.M[name].zero_()
            guide.G[name].fill_(0.2**0.5)
    subset = first_entries(model, 4)
    ratios = importance_log_weights(model, guide, [token_batch(4)], subset, 40, 0, progress=False)
    assert float(ratios.std()) < 1e-3
    with torch.no_grad():
        guide.G[next(iter(subset))].fill_(0.05**0.5)  # four times too narrow
    narrow = importance_log_weights(model, guide, [token_batch(4)], subset, 400, 0, progress=False)
    assert pareto_k(narrow) > 0.7


def test_a_whole_site_of_a_guide_with_correlations(peft_network: Any, token_batch: Any) -> None:
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 4)
    guide = MatrixNormalGuide(model)
    whole = {name: torch.ones_like(mask) for name, mask in first_entries(model).items()}
    weights = importance_log_weights(model, guide, [token_batch(4)], whole, 3, 0, progress=False)
    assert weights.isfinite().all()
    with pytest.raises(
        ValueError, match="MatrixNormalGuide correlates entries; choose whole sites"
    ):
        importance_log_weights(model, guide, [token_batch(4)], first_entries(model))


def test_the_training_data_are_wanted(program: Any, token_batch: Any) -> None:
    model, guide = program("bert", num_data=8)
    with pytest.raises(ValueError, match=r"gave 4 examples, .* num_data=8 labelled ones; give the"):
        importance_log_weights(
            model, guide, [token_batch(4)], first_entries(model), 2, progress=False
        )


def test_subsets_that_do_not_fit_are_refused(program: Any) -> None:
    model, guide = program("bert")
    ((name, mask),) = first_entries(model).items()
    with pytest.raises(ValueError, match=r"subset: the guide has no site 'q' but \['base"):
        importance_log_weights(model, guide, [], {"q": mask})
    for wrong in (mask[:1], mask.float(), torch.zeros_like(mask)):
        with pytest.raises(ValueError, match=r"has the shape .* wanted a bool mask of the shape"):
            importance_log_weights(model, guide, [], {name: wrong})
    with pytest.raises(ValueError, match=r"kl_scale=0.0 must be positive"):
        importance_log_weights(model, guide, [], {name: mask}, kl_scale=0.0)


def test_a_hyper_prior_is_refused(peft_network: Any) -> None:
    prior = HierarchicalNormalPrior(0.2)
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 4, prior=prior)
    guide = LowRankGaussianGuide(model)
    with pytest.raises(
        ValueError, match=r"the prior has the latent sites \['prior.shared_scale'\]"
    ):
        importance_log_weights(model, guide, [], first_entries(model))
