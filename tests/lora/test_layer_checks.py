"""What ``bayesianize`` and ``unbayesianize`` refuse: the layer, the way out, and no trace left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

from blob_pyro.lora import NormalPrior, bayesianize, lora_sites, unbayesianize

Snapshot = tuple[list[tuple[str, int]], dict[str, torch.Tensor]]


def snapshot(net: nn.Module) -> Snapshot:
    modules = [(name, id(module)) for name, module in net.named_modules()]
    return modules, {name: value.clone() for name, value in net.state_dict().items()}


def assert_unchanged(net: nn.Module, before: Snapshot) -> None:
    modules, state = snapshot(net)
    assert modules == before[0]
    assert all(torch.equal(state[name], before[1][name]) for name in before[1])


def network(*layers: nn.Module, **options: Any) -> PeftModel:
    """A PEFT model over a sequence that ends in a linear layer, all of it a target."""
    net = nn.Sequential(*layers, nn.Linear(4, 3))
    targets = [str(index) for index in range(len(net))]
    return get_peft_model(net, LoraConfig(r=2, **{"target_modules": targets, **options}))


def merged() -> PeftModel:
    net = network()
    net.merge_adapter()
    return net


def disabled() -> PeftModel:
    net = network()
    net.base_model.disable_adapter_layers()
    return net


def inactive() -> PeftModel:
    net = network()
    net.add_adapter("other", LoraConfig(r=2, target_modules=["0"]))
    net.set_adapter("other")
    return net


def bayesian() -> PeftModel:
    net = network()
    bayesianize(net)
    return net


def of_another_method() -> PeftModel:
    config = IA3Config(target_modules=["0"], feedforward_modules=[])
    return get_peft_model(nn.Sequential(nn.Linear(4, 3)), config)


REFUSED: dict[str, tuple[Callable[[], PeftModel], str]] = {
    "no LoRA layer": (of_another_method, r"'default' has no LoRA layer.*target_modules that name"),
    "embedding": (
        lambda: network(nn.Embedding(5, 4)),
        r"layer 'base_model.model.0' is a LoRA Embedding layer.*leave it out of target_modules",
    ),
    "convolution": (
        lambda: network(nn.Conv1d(4, 4, 2)),
        r"layer 'base_model.model.0' is a LoRA Conv1d layer.*leave it out of target_modules",
    ),
    "convolution 2d": (
        lambda: network(nn.Conv2d(4, 4, 2)),
        r"layer 'base_model.model.0' is a LoRA Conv2d layer.*leave it out of target_modules",
    ),
    "attention": (
        lambda: network(nn.MultiheadAttention(4, 2)),
        r"layer 'base_model.model.0' is a LoRA MultiheadAttention layer.*leave it out",
    ),
    "parameter": (
        lambda: network(target_parameters=["0.weight"], target_modules=[]),
        r"layer 'base_model.model.0' is a LoRA ParamWrapper layer.*leave it out of target_modules",
    ),
    "DoRA": (
        lambda: network(use_dora=True),
        r"layer 'base_model.model.0' uses the LoRA variant Dora.*use plain LoRA.*use_dora=False",
    ),
    "merged": (
        merged,
        r"layer 'base_model.model.0' is merged \(\['default'\]\).*peft_model.unmerge_adapter\(\)",
    ),
    "disabled": (
        disabled,
        r"layer 'base_model.model.0': adapter 'default' is disabled.*enable_adapter_layers\(\)",
    ),
    "not active": (
        inactive,
        r"layer 'base_model.model.0': adapter 'default' is .*not active.*set_adapter\('default'\)",
    ),
    "Bayesian": (
        bayesian,
        r"layer 'base_model.model.0': adapter 'default' is already Bayesian.*unbayesianize",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_layer_is_named_and_nothing_changes(reason: str) -> None:
    make, message = REFUSED[reason]
    net = make()
    before = snapshot(net)
    with pytest.raises(ValueError, match=message):
        bayesianize(net)
    assert_unchanged(net, before)


def test_a_refused_layer_after_good_ones_changes_nothing() -> None:
    net = get_peft_model(
        nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 2)),
        LoraConfig(r=2, target_modules=["0", "1"]),
    )
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"layer 'base_model.model.1' is a LoRA Conv1d"):
        bayesianize(net)
    assert_unchanged(net, before)


def test_only_peft_models() -> None:
    net = nn.Linear(4, 3)
    with pytest.raises(
        TypeError, match=r"blob_pyro needs a PeftModel but got Linear; wrap .*get_peft_model"
    ):
        bayesianize(net)  # type: ignore[arg-type]


def test_unknown_adapter() -> None:
    net = network()
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"'other' is not in the PEFT model, which has \['default"):
        bayesianize(net, adapter="other")
    assert_unchanged(net, before)


@pytest.mark.parametrize("scale", [0.0, -0.2, float("nan"), float("inf")])
def test_prior_scale_is_a_standard_deviation(scale: float) -> None:
    net = network()
    before = snapshot(net)
    with pytest.raises(ValueError, match=rf"prior_scale={scale} is not a standard deviation; give"):
        bayesianize(net, prior_scale=scale)
    assert_unchanged(net, before)
    with pytest.raises(ValueError, match="is not a standard deviation"):
        NormalPrior(scale)


def test_nothing_to_unbayesianize() -> None:
    net = network()
    before = snapshot(net)
    with pytest.raises(
        ValueError, match=r"'default' has no Bayesian layer; call bayesianize first"
    ):
        unbayesianize(net)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ({}, r"mean has no entry for site '.*1\.lora_A\.weight'; pass guide\.mean\(\)"),
        (
            {"base_model.model.1.lora_A.weight": torch.zeros(3, 4)},
            r"site '.*1\.lora_A\.weight' has shape \(3, 4\) but the layer needs \(2, 4\).*rank",
        ),
    ],
    ids=["missing site", "another rank"],
)
def test_a_mean_that_does_not_fit_changes_nothing(
    mean: dict[str, torch.Tensor], message: str
) -> None:
    net = network(nn.Linear(4, 4))
    bayesianize(net)
    before, sites = snapshot(net), lora_sites(net)
    fitting = {"base_model.model.0.lora_A.weight": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=message):
        unbayesianize(net, {**fitting, **mean})
    assert_unchanged(net, before)
    assert lora_sites(net) == sites


@pytest.mark.parametrize("latent", [("B",), (), ("B", "A")])
def test_unknown_latents_are_refused(latent: Any, peft_network: Any) -> None:
    with pytest.raises(ValueError, match=r"latent=.* is unknown; use \('A',\) or \('A', 'B'\)"):
        bayesianize(peft_network("llama"), latent=latent)


def test_a_biased_B_cannot_be_latent(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS", lora_bias=True)
    with pytest.raises(ValueError, match=r"query' has lora_bias=True.*latent=\('A',\)"):
        bayesianize(net, latent=("A", "B"))
    assert lora_sites(net) == {}
