"""What ``bayesianize`` does; what it refuses is in ``test_layer_checks.py``."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import pyro
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.warning import PeftWarning
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from blob_pyro.infer import posterior_predictive
from blob_pyro.lora import LoraProjection, bayesianize, lora_sites, unbayesianize
from blob_pyro.poutine import apply_weight

# What a LoraConfig may ask for: name of the network, task type, options, and the ranks expected.
VARIANTS: dict[str, tuple[str, str, dict[str, Any], set[int]]] = {
    "linear": ("llama", "CAUSAL_LM", {}, {2}),
    "conv1d": ("gpt2", "CAUSAL_LM", {}, {2}),
    "ranks": ("llama", "CAUSAL_LM", {"rank_pattern": {"layers.0.self_attn.q_proj": 3}}, {2, 3}),
    "rslora": ("llama", "CAUSAL_LM", {"use_rslora": True}, {2}),
    "bias": ("bert", "SEQ_CLS", {"lora_bias": True}, {2}),
    "dropout": ("llama", "CAUSAL_LM", {"lora_dropout": 0.3}, {2}),
    "modules_to_save": ("llama", "CAUSAL_LM", {"modules_to_save": ["lm_head"]}, {2}),
    "head": ("bert", "SEQ_CLS", {}, {2}),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, peft_network: Any) -> tuple[PeftModel, set[int]]:
    name, task_type, options, ranks = VARIANTS[request.param]
    return peft_network(name, task_type, **options), ranks


def adapter_weights(net: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name.replace(".default", ""): parameter.detach().clone()
        for name, parameter in net.named_parameters()
        if ".lora_A." in name
    }


def logits(net: PeftModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    pyro.set_rng_seed(1)  # for the dropout
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return net(**inputs).logits


def toy_network(adapter: str = "default", **options: Any) -> PeftModel:
    config = LoraConfig(**{"r": 2, "target_modules": ["0", "1"], **options})
    return get_peft_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), config, adapter)


def structure(net: nn.Module) -> dict[str, tuple[type, int, bool, bool]]:
    """Everything but the ``lora_A``: class, identity, mode, and whether ``forward`` is patched."""
    return {
        name: (type(module), id(module), module.training, "forward" in vars(module))
        for name, module in net.named_modules()
        if ".lora_A." not in name
    }


def test_sites_by_layer_name_are_peft_names() -> None:
    net = toy_network()
    sites = bayesianize(net)
    assert list(sites) == [
        "base_model.model.0.lora_A.weight",
        "base_model.model.1.lora_A.weight",
    ]
    assert sites == lora_sites(net)


def test_sites_are_the_names_on_disk(variant: tuple[PeftModel, set[int]]) -> None:
    net, _ = variant
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*have invalid shape", PeftWarning)  # of lora_bias
        on_disk = {name for name in get_peft_model_state_dict(net) if "lora_A" in name}
    assert set(bayesianize(net)) == on_disk


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_lora_A_changes(variant: tuple[PeftModel, set[int]], training: bool) -> None:
    net, _ = variant
    net.train(training)
    before, parameters, state = structure(net), dict(net.named_parameters()), net.state_dict()
    sites = bayesianize(net)
    assert structure(net) == before
    assert {**net.state_dict()}.keys() == {**state}.keys()
    left = {name: p for name, p in parameters.items() if ".lora_A." not in name}
    assert {name: id(p) for name, p in net.named_parameters()} == {
        name: id(p) for name, p in left.items()
    }
    pyro_modules = [m for m in net.modules() if isinstance(m, PyroModule)]
    assert [type(module) for module in pyro_modules] == [LoraProjection] * len(sites)
    assert all(module.training == training for module in pyro_modules)


def test_given_lora_A_the_logits_are_those_of_peft(
    variant: tuple[PeftModel, set[int]], token_batch: Any
) -> None:
    net, _ = variant
    expected, weights = logits(net, token_batch()), adapter_weights(net)
    bayesianize(net)
    torch.testing.assert_close(
        poutine.condition(logits, weights)(net, token_batch()), expected, atol=1e-6, rtol=0
    )
    # And the weights matter, so that the comparison means something.
    other = {name: weight + torch.randn_like(weight) for name, weight in weights.items()}
    shifted = poutine.condition(logits, other)(net, token_batch())
    assert (shifted - expected).abs().max() > 1e-2


def test_the_sites_know_their_layer(variant: tuple[PeftModel, set[int]]) -> None:
    net, ranks = variant
    weights = adapter_weights(net)
    bayesianize(net)
    for name, site in lora_sites(net).items():
        projection = site.projection
        assert (projection.out_features, projection.in_features) == weights[name].shape
        assert torch.equal(projection.initial_weight, weights[name])
        # PEFT's own product s B A, (n, m) for a Conv1D.
        delta = site.layer.get_delta_weight("default")
        delta = delta.T if site.layer.fan_in_fan_out else delta
        torch.testing.assert_close(site.scaling * site.lora_B @ weights[name], delta)
    assert {site.projection.out_features for site in lora_sites(net).values()} == ranks


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 16 / 4), (True, 16 / math.sqrt(4))])
def test_scaling(rslora: bool, scaling: float) -> None:
    net = toy_network(r=4, lora_alpha=16, use_rslora=rslora)
    bayesianize(net)
    assert [site.scaling for site in lora_sites(net).values()] == [scaling] * 2


@pytest.mark.parametrize("prior_scale", [0.2, 1.5])
def test_prior_is_normal_over_the_matrix(
    variant: tuple[PeftModel, set[int]], token_batch: Any, prior_scale: float
) -> None:
    net, _ = variant
    shapes = {name: weight.shape for name, weight in adapter_weights(net).items()}
    sites = bayesianize(net, prior_scale)
    trace = poutine.trace(logits).get_trace(net, token_batch())
    trace.compute_log_prob()
    assert set(trace.stochastic_nodes) == set(sites)
    for name, shape in shapes.items():
        site = trace.nodes[name]
        assert (site["fn"].batch_shape, site["fn"].event_shape) == ((), shape)
        assert site["fn"].event_dim == 2
        squares = (site["value"] / prior_scale).square().sum()
        normalizer = shape.numel() * (math.log(prior_scale) + 0.5 * math.log(2 * math.pi))
        torch.testing.assert_close(site["log_prob"], -0.5 * squares - normalizer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_prior_follows_the_network(dtype: torch.dtype) -> None:
    net = toy_network()
    bayesianize(net)
    net.to(dtype)
    for site in lora_sites(net).values():
        assert site.projection.prior(site.projection).sample().dtype == dtype
        assert site.projection.weight.dtype == dtype


def test_reading_the_weight_is_no_statement() -> None:
    net = toy_network()
    bayesianize(net)
    projection = next(iter(lora_sites(net).values())).projection
    trace = poutine.trace(lambda: projection.weight).get_trace()
    assert list(trace.nodes) == ["_INPUT", "_RETURN"]
    assert projection.weight is projection.initial_weight


def test_a_draw_lasts_while_its_model_runs() -> None:
    net = toy_network()
    bayesianize(net)
    projection = next(iter(lora_sites(net).values())).projection
    draw, x = projection.sample(), torch.randn(5, 4)
    projection.install(draw, apply_weight(draw, x.shape[:-1]))
    with projection.use.running():
        for _ in range(2):
            assert projection.weight is draw
            torch.testing.assert_close(projection(x), x @ draw.T)
    torch.testing.assert_close(projection.eval()(x), x @ projection.initial_weight.T)
    assert not torch.equal(projection.sample(), draw)


@pytest.mark.parametrize("name", ["other"])
def test_only_the_named_adapter_becomes_bayesian(name: str) -> None:
    net = toy_network()
    net.add_adapter(name, LoraConfig(r=3, target_modules=["1"]))
    net.set_adapter(name)
    assert list(bayesianize(net, adapter=name)) == ["base_model.model.1.lora_A.weight"]
    assert lora_sites(net) == {}
    assert [site.adapter for site in lora_sites(net, name).values()] == [name]


def test_disable_adapter_gives_the_base_model(
    architecture: tuple[str, str], peft_network: Any, token_batch: Any
) -> None:
    net = peft_network(*architecture)
    with net.disable_adapter():
        expected = logits(net, token_batch())
    bayesianize(net)
    with net.disable_adapter():
        trace = poutine.trace(logits).get_trace(net, token_batch())
    assert torch.equal(trace.nodes["_RETURN"]["value"], expected)
    assert trace.stochastic_nodes == []


@pytest.mark.parametrize("training", [True, False])
def test_unbayesianize_gives_back_peft(
    variant: tuple[PeftModel, set[int]], token_batch: Any, training: bool
) -> None:
    net, _ = variant
    net.train(training)
    expected, state, before = logits(net, token_batch()), net.state_dict(), structure(net)
    bayesianize(net)
    assert unbayesianize(net) is net
    assert structure(net) == before
    assert {type(m) for n, m in net.named_modules() if n.endswith("lora_A.default")} == {nn.Linear}
    assert all(module.training == training for module in net.modules())
    assert list(net.state_dict()) == list(state)
    assert torch.equal(logits(net, token_batch()), expected)
    assert all(weight.requires_grad for n, weight in net.named_parameters() if "lora_" in n)


def test_unbayesianize_takes_the_mean(
    variant: tuple[PeftModel, set[int]], token_batch: Any, tmp_path: Any
) -> None:
    net, _ = variant
    mean = {name: torch.randn_like(weight) for name, weight in adapter_weights(net).items()}
    bayesianize(net)
    expected = poutine.condition(logits, mean)(net, token_batch())
    unbayesianize(net, mean)
    torch.testing.assert_close(logits(net, token_batch()), expected, atol=1e-6, rtol=0)
    assert all(torch.equal(adapter_weights(net)[name], mean[name]) for name in mean)
    # The mean was copied: PEFT may train on.
    next(iter(mean.values())).zero_()
    assert all(weight.abs().sum() > 0 for weight in adapter_weights(net).values())


def test_a_copy_after_a_call_is_independent(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model, batch = classifier(*architecture), token_batch()
    model(**batch)
    copied = copy.deepcopy(model)
    draw = {name: site.projection.initial_weight for name, site in model.sites.items()}
    for program in (model, copied):
        torch.testing.assert_close(
            poutine.condition(program, draw)(**batch), poutine.condition(model, draw)(**batch)
        )
    assert list(copied.sites) == list(model.sites)
    ours, theirs = ({id(m) for m in program.modules()} for program in (model, copied))
    assert not ours & theirs
    layers = {id(site.layer) for site in copied.sites.values()}
    assert layers <= theirs


def test_a_program_can_be_sent_to_another_process(program: Any, token_batch: Any) -> None:
    batch = {k: v for k, v in token_batch().items() if k != "labels"}
    sent = program("bert")
    predicted = [
        posterior_predictive(*each, [batch], 2, seed=0, progress=False)["logits"]
        for each in (sent, pickle.loads(pickle.dumps(sent)))
    ]
    assert torch.equal(*predicted)
    # Pyro renames the functions that it samples by.
    assert LoraProjection._prior_distribution.__name__ == "_prior_distribution"
