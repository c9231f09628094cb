from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from peft import PeftModel
from pyro.infer import Predictive

from blob_pyro.diagnostics import log_probs, to_arviz
from blob_pyro.files import export_draws, load_posterior, save_posterior
from blob_pyro.guides import (
    EnsembleGuide,
    LaplaceGuide,
    LowRankGaussianGuide,
    PointEstimateGuide,
    TFBGuide,
)
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks import load_causal_lm
from blob_pyro.posthoc import ensemble
from blob_pyro.testing import tiny_network

CLASSES = [PointEstimateGuide, LowRankGaussianGuide]


@pytest.fixture
def programs(base_folder: str) -> Any:
    """Make fitted-looking programs with different A, B and scales on one base network."""
    from peft import LoraConfig, get_peft_model

    base = load_causal_lm(base_folder)

    def make(guide_class: Any, count: int = 3, **options: Any) -> list[Any]:
        made = []
        for seed in range(count):
            pyro.set_rng_seed(seed)
            lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
            net = get_peft_model(copy.deepcopy(base), lora)
            model = LabelTokenClassifier(net, [7, 9, 11], 8, **options)
            guide = guide_class(model)
            for parameter in (*guide.parameters(), *model.parameters()):
                if parameter.requires_grad:
                    parameter.data.add_(0.5 * torch.randn_like(parameter))
            made.append((model, guide))
        return made

    return make


def predicted(program: Any, batch: Any, num_samples: int, **options: Any) -> torch.Tensor:
    return posterior_predictive(*program, [batch], num_samples, 0, progress=False, **options)[
        "logits"
    ]


def test_an_ensemble_of_points_averages_the_probabilities_of_its_members(
    programs: Any, token_batch: Any
) -> None:
    fitted, batch = programs(PointEstimateGuide), token_batch()
    alone = torch.cat([predicted(program, batch, 0) for program in fitted])
    program = ensemble(fitted)
    found = predicted(program, batch, 6)
    torch.testing.assert_close(found, alone.repeat(2, 1, 1), atol=1e-5, rtol=0)
    expected = alone.softmax(-1).mean(0)
    averaged = torch.as_tensor(log_probs(predicted(program, batch, 3))).exp()
    torch.testing.assert_close(averaged.float(), expected, atol=1e-5, rtol=0)
    together = predicted(program, batch, 6, parallel=4)
    torch.testing.assert_close(together, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("latent", [("A",), ("A", "B")])
def test_members_may_be_posteriors(programs: Any, token_batch: Any, latent: Any) -> None:
    fitted = programs(LowRankGaussianGuide, latent=latent)
    means = [guide.mean() for _, guide in fitted]
    scales = [guide.scale() for _, guide in fitted]
    ups = [[site.lora_B.detach().clone() for site in model.sites.values()] for model, _ in fitted]
    _, guide = ensemble(fitted)
    # By brute force: 3 x 1000 draws, a layer's matrices within 4.75 standard errors.
    draws = guide.draws(3000)
    for name in list(guide.sites)[:2]:
        samples = torch.stack([draw[name].detach() for draw in draws])
        if name in means[0]:
            for member in range(3):
                part = samples[member::3]
                error = (part.mean(0) - means[member][name]).abs() / (
                    scales[member][name] / len(part) ** 0.5
                )
                assert error.max() < 4.75
        else:
            assert all(torch.equal(samples[member], ups[member][0]) for member in range(3))
        torch.testing.assert_close(samples.mean(0), guide.mean()[name], atol=0.05, rtol=0)
        torch.testing.assert_close(samples.std(0), guide.scale()[name], atol=0.03, rtol=0.06)


@pytest.mark.parametrize("latent", [("A",), ("A", "B")])
def test_weight_moments_are_those_of_draws(programs: Any, latent: Any, z_score: Any) -> None:
    # 256 entries, two tests, within 4.75 standard errors: fails 1 seed in 900.
    _, guide = ensemble(programs(LowRankGaussianGuide, 2, latent=latent))
    down, up = list(guide.sites)[:2]
    draws = guide.draws(3000)
    sample = guide.sites[down].scaling * torch.stack([d[up] @ d[down] for d in draws]).detach()
    mean, deviation = guide.weight_moments(down)
    # Stratified draws are less noisy than the standard errors say, so these are wide enough.
    assert z_score(sample, mean) < 4.75
    assert z_score((sample - mean).square(), deviation.square()) < 4.75
    assert z_score((sample - mean).square(), 1.21 * deviation.square()) > 4.75


def test_as_a_pyro_guide_it_draws_a_member_for_all_sites(programs: Any, token_batch: Any) -> None:
    model, guide = ensemble(programs(PointEstimateGuide))
    batch = {name: value for name, value in token_batch().items() if name != "labels"}
    names = list(guide.sites)
    predictive = Predictive(
        model.eval(), guide=guide, num_samples=60, return_sites=(*names, "logits")
    )
    draws = predictive(**batch)
    members = [member.mean() for member in guide.members]
    first = [[torch.equal(d.squeeze(), m[names[0]]) for m in members] for d in draws[names[0]]]
    # 60 draws of three members: fewer than 8 or more than 32 of one fails 1 seed in 1000.
    assert all(8 <= count <= 32 for count in torch.tensor(first).sum(0).tolist())
    for name in names:
        matches = [[torch.equal(d.squeeze(), m[name]) for m in members] for d in draws[name]]
        assert matches == first
    at_once = Predictive(
        model, guide=guide, num_samples=5, return_sites=("logits",), parallel=True
    )(**batch)
    assert at_once["logits"].shape == (5, 4, 3)


@pytest.mark.parametrize("guide_class", CLASSES)
def test_saved_and_loaded_bit_for_bit(
    guide_class: Any, programs: Any, token_batch: Any, tmp_path: Path
) -> None:
    model, guide = ensemble(programs(guide_class))
    batch = token_batch()
    save_posterior(tmp_path / "ens", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "ens")
    assert isinstance(loaded_guide, EnsembleGuide)
    assert loaded_guide.config() == guide.config()
    state = loaded_guide.state_dict()
    assert state.keys() == guide.state_dict().keys()
    for name, value in guide.state_dict().items():
        assert torch.equal(state[name], value)
    assert torch.equal(
        predicted((loaded, loaded_guide), batch, 4), predicted((model, guide), batch, 4)
    )
    # The mean of the mixture is what PEFT finds on disk.
    found, kept = (predicted(each, batch, 0) for each in ((loaded, loaded_guide), (model, guide)))
    assert torch.equal(found, kept)


def test_the_scale_of_a_member_follows_its_own_B(
    programs: Any, token_batch: Any, tmp_path: Path
) -> None:
    fitted = programs(TFBGuide)
    for number, (model, _) in enumerate(fitted):
        for site in model.sites.values():
            site.lora_B.data.mul_(10.0**number)
    expected = [guide.scale() for _, guide in fitted]
    spreads = [{name: guide.weight_moments(name)[1] for name in guide.sites} for _, guide in fitted]
    program = ensemble(fitted)
    save_posterior(tmp_path / "ens", *program)
    for model, guide in (program, load_posterior(tmp_path / "ens")):
        # Whichever member the network last ran with.
        predicted((model, guide), token_batch(), 2)
        for number, member in enumerate(guide.members):
            for name, scale in expected[number].items():
                assert torch.equal(member.scale()[name], scale)
                torch.testing.assert_close(member.weight_moments(name)[1], spreads[number][name])


def test_a_hyper_prior_s_sites_are_drawn_with_their_member(programs: Any, token_batch: Any) -> None:
    fitted = programs(LowRankGaussianGuide, prior=HierarchicalNormalPrior(0.2))
    model, guide = ensemble(fitted)
    assert predicted((model, guide), token_batch(), 3).shape == (3, 4, 3)
    assert "prior.shared_scale" in guide.draws(1)[0]


def with_new_head() -> Any:
    """Make the same network with an adapter and a head each time."""
    pyro.set_rng_seed(0)
    return tiny_network("bert", "SEQ_CLS", target_modules=["query", "value"])


@pytest.fixture
def with_heads() -> Any:
    """Make fitted-looking programs with a head each, on the same base network."""

    def make(guide_class: Any, count: int = 3, **options: Any) -> list[Any]:
        made = []
        for seed in range(count):
            model = SequenceClassifier(with_new_head(), 8, **options)
            pyro.set_rng_seed(seed)
            guide = guide_class(model)
            for parameter in (*guide.parameters(), *model.parameters()):
                if parameter.requires_grad:
                    parameter.data.add_(0.5 * torch.randn_like(parameter))
            made.append((model, guide))
        return made

    return make


@pytest.mark.parametrize("latent", [("A",), ("A", "B")])
@pytest.mark.parametrize("guide_class", CLASSES)
def test_each_member_brings_its_own_head(
    guide_class: Any, latent: Any, with_heads: Any, token_batch: Any, tmp_path: Path
) -> None:
    fitted, batch = with_heads(guide_class, latent=latent), token_batch()
    for _, guide in fitted:
        for parameter in guide.scale_parameters():
            # Draws are the means, so that each member can be predicted by itself.
            parameter.data.zero_()
    alone = torch.cat([predicted(program, batch, 1) for program in fitted])
    assert (alone[0] - alone[1]).abs().max() > 0.1
    heads = [dict(model.network.get_base_model().classifier.named_parameters())
             for model, _ in fitted]  # fmt: skip
    trained = [{n: p.detach().clone() for n, p in h.items() if "modules_to_save" in n}
               for h in heads]  # fmt: skip
    program = ensemble(fitted)
    for parallel in (False, 4):
        found = predicted(program, batch, 6, parallel=parallel)
        torch.testing.assert_close(found, alone.repeat(2, 1, 1), atol=1e-5, rtol=0)
    # The network is left with the average of the heads, which belongs to the average of weights.
    own = dict(program[0].network.get_base_model().classifier.named_parameters())
    for name in trained[0]:
        average = torch.stack([head[name] for head in trained]).mean(0)
        torch.testing.assert_close(own[name].detach(), average)
    for _, guide in fitted:
        for parameter in guide.scale_parameters():
            parameter.data.fill_(0.1)
    save_posterior(tmp_path / "ens", *program)
    base = with_new_head().unload()
    loaded = load_posterior(tmp_path / "ens", base, adapter="other")
    for num_samples in (0, 5):
        assert torch.equal(
            predicted(loaded, batch, num_samples), predicted(program, batch, num_samples)
        )
    values = to_arviz(posterior_predictive(*loaded, [batch], 4, 0, progress=False))
    found = torch.tensor(values.posterior["probs"].values[0])
    expected = predicted(program, batch, 4).softmax(-1)
    torch.testing.assert_close(found, expected, check_dtype=False, atol=1e-6, rtol=0)


def test_a_draw_is_exported_with_its_head(
    with_heads: Any, token_batch: Any, tmp_path: Path
) -> None:
    program = ensemble(with_heads(PointEstimateGuide))
    batch = {name: value for name, value in token_batch().items() if name != "labels"}
    expected = predicted(program, batch, 3)
    for path, logits in zip(export_draws(tmp_path / "draws", *program, 3), expected, strict=True):
        base = with_new_head().unload()
        found = PeftModel.from_pretrained(base, path).eval()(**batch).logits
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)


def test_heads_are_no_sites_so_pyro_and_shared_passes_are_refused(
    with_heads: Any, token_batch: Any
) -> None:
    model, guide = ensemble(with_heads(PointEstimateGuide))
    with pytest.raises(ValueError, match=r"is not a site of the model.*use posterior_predictive"):
        Predictive(model, guide=guide, num_samples=2)(**token_batch())
    with (
        pytest.raises(ValueError, match="2 draws of an ensemble have a head each"),
        model.under(guide.draws(2), torch.Size([4, 5])),
    ):
        pass


def test_members_of_which_one_has_no_head_are_refused(programs: Any, with_heads: Any) -> None:
    with pytest.raises(ValueError, match=r"list of heads of one member is \[\] and of another \['"):
        ensemble([*programs(PointEstimateGuide, 1), *with_heads(PointEstimateGuide, 1)])


def test_members_of_one_temperature_keep_it_and_others_are_refused(programs: Any) -> None:
    warm = programs(PointEstimateGuide, 2)
    for model, _ in warm:
        model.set_temperature(3.0)
    assert ensemble(warm)[0].temperature.tolist() == 3
    warm = programs(PointEstimateGuide, 2)
    warm[1][0].set_temperature(3.0)
    with pytest.raises(
        ValueError, match=r"the temperature of one member is 1.0 and of another 3.0"
    ):
        ensemble(warm)


def test_members_of_different_scalings_are_refused(programs: Any) -> None:
    fitted = programs(PointEstimateGuide, 2)
    for site in fitted[1][0].sites.values():
        site.layer.scaling["default"] = 2.0
    with pytest.raises(
        ValueError, match=r"scaling of '.*lora_A.weight' of .* is 4.* another 2.*lora_alp"
    ):
        ensemble(fitted)


def test_members_that_predict_by_a_linearised_model_are_refused(programs: Any) -> None:
    fitted = programs(LaplaceGuide, 2)
    with pytest.raises(ValueError, match=r"predictive='linearised', but.*predictive='network'"):
        ensemble(fitted)
    for _, guide in fitted:
        guide.predictive = "network"
    assert len(ensemble(fitted)[1].members) == 2


def test_an_ensemble_is_not_trained(programs: Any, token_batch: Any) -> None:
    model, guide = ensemble(programs(PointEstimateGuide, 2))
    with pytest.raises(ValueError, match=r"mixture has no closed form.*fit its members"):
        guide.kl()
    with pytest.raises(ValueError, match=r"no distribution of its own.*members\[number\].guide"):
        guide.site_posterior(next(iter(guide.sites)))
    with pytest.raises(ValueError, match="'ensemble_member' is a Categorical"):
        ReweightedTrace_ELBO(1).loss(model, guide, **token_batch())


def test_members_of_different_base_networks_are_refused(programs: Any) -> None:
    fitted = programs(PointEstimateGuide, 2)
    for name, value in fitted[1][0].network.named_parameters():
        if "layers.0.mlp" in name:
            value.data += 0.1
    with pytest.raises(ValueError, match=r"the base network of one member is .* and of another"):
        ensemble(fitted)


def test_an_ensemble_is_no_member(programs: Any) -> None:
    with pytest.raises(ValueError, match="a member is an ensemble itself"):
        ensemble([ensemble(programs(PointEstimateGuide, 2))])
