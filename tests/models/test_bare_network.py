"""A network with latent weights that is called without its model, against unmodified PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pyro import poutine
from torch import nn

from blob_pyro.guides import LaplaceGuide, LowRankGaussianGuide
from blob_pyro.infer import PosteriorFunctions, generate, posterior_predictive
from blob_pyro.lora import bayesianize, unbayesianize
from blob_pyro.models import CausalLM, LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks import pooled_features


@pytest.fixture
def fitted(classifier: Any, architecture: tuple[str, str]) -> tuple[Any, LowRankGaussianGuide]:
    """A program whose means are no longer where they started."""
    model = classifier(*architecture).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    for _, mean in guide.M.items():
        mean.data.normal_()
    return model, guide


def of_peft(model: Any, guide: Any, inputs: Any) -> torch.Tensor:
    plain = unbayesianize(copy.deepcopy(model.network), guide.mean()).eval()
    with torch.no_grad():
        logits: torch.Tensor = plain(**inputs).logits
    return logits


@pytest.fixture
def inputs(token_batch: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in token_batch().items() if k != "labels"}


def test_it_predicts_with_the_mean_whatever_ran_before(fitted: Any, inputs: Any) -> None:
    model, guide = fitted
    expected = of_peft(model, guide, inputs)

    def check(network: Any) -> None:
        torch.testing.assert_close(network(**inputs).logits, expected, atol=1e-5, rtol=1e-4)

    check(model.network)
    posterior_predictive(model, guide, [inputs], 2, seed=0, progress=False)
    check(model.network)
    # With gradients, draws stay for the backward pass.
    with poutine.trace():
        model(**inputs)
        check(model.network)
    check(copy.deepcopy(model.network))
    check(copy.deepcopy(model).network)
    merged = copy.deepcopy(model.network)
    merged.merge_adapter()
    check(merged)
    check(copy.deepcopy(model.network).merge_and_unload())


def test_a_guide_that_is_refused_leaves_the_mean_of_the_one_before(
    fitted: Any, inputs: Any
) -> None:
    model, guide = fitted
    expected = of_peft(model, guide, inputs)
    with pytest.raises(ValueError, match="prior_precision"):
        LaplaceGuide(model, prior_precision=-1.0)
    with torch.no_grad():
        found = model.network(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("combination", ["linear", "cat", "svd"])
def test_an_adapter_that_peft_makes_of_it_is_made_of_the_mean(
    combination: str, fitted: Any, inputs: Any
) -> None:
    model, guide = fitted
    found, plain = model.network, unbayesianize(copy.deepcopy(model.network), guide.mean()).eval()
    for net in (found, plain):
        net.add_weighted_adapter(["default"], [0.7], "new", combination_type=combination)
        net.set_adapter("new")
    with torch.no_grad():
        torch.testing.assert_close(found(**inputs).logits, plain(**inputs).logits)


def test_peft_saves_its_mean(fitted: Any, inputs: Any, tmp_path: Path) -> None:
    model, guide = fitted
    state, own = model.network.state_dict(), model.state_dict()
    for name, mean in guide.mean().items():
        assert torch.equal(state[name.replace(".weight", ".default.weight")], mean)
        # What a model saves can be read before its guide is.
        assert f"net.{name}".replace(".weight", ".default.weight") not in own
    model.network.save_pretrained(tmp_path)
    base = unbayesianize(copy.deepcopy(model.network)).unload()
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, of_peft(model, guide, inputs))


def test_a_state_with_other_weights_is_not_half_loaded(
    fitted: Any, inputs: Any, peft_network: Any
) -> None:
    model, guide = fitted
    expected, state = of_peft(model, guide, inputs), model.network.state_dict()
    model.network.load_state_dict(state)
    bare = unbayesianize(copy.deepcopy(model.network))
    bayesianize(bare)
    bare.load_state_dict(state)
    torch.testing.assert_close(bare.eval()(**inputs).logits, expected)
    state = {name: 2 * weight if "lora_A" in name else weight for name, weight in state.items()}
    with pytest.raises(RuntimeError, match=r"lora_A.weight. has a posterior, which a weight"):
        model.network.load_state_dict(state)


@pytest.mark.parametrize("has_model", [True, False])
def test_training_it_is_refused(has_model: bool, fitted: Any, inputs: Any) -> None:
    model, _ = fitted
    model.use.has_model = has_model
    model.network.train()
    with pytest.raises(ValueError, match="the network is trained without its guide"):
        model.network(**inputs)
    with torch.no_grad():
        model.network(**inputs)


def test_a_merged_network_is_refused_by_name_until_it_is_unmerged(fitted: Any, inputs: Any) -> None:
    model, guide = fitted
    before = posterior_predictive(model, guide, [inputs], 3, seed=0, progress=False)["logits"]
    model.network.merge_adapter()
    for call in (
        lambda: model(**inputs),
        lambda: posterior_predictive(model, guide, [inputs], 3, seed=0, progress=False),
    ):
        with pytest.raises(ValueError, match="is merged into the network"):
            call()
    model.network.unmerge_adapter()
    after = posterior_predictive(model, guide, [inputs], 3, seed=0, progress=False)["logits"]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def beside_first_pass(layer: nn.Module, run: Callable[[], Any], work: Callable[[], Any]) -> Any:
    """Do something in another thread while a layer is run for the first time; give its result."""
    started: list[Any] = []

    def start(*_: Any) -> None:
        if not started:
            started.append(pool.submit(work))
            wait(started, timeout=0.2)

    with ThreadPoolExecutor(1) as pool:
        with layer.register_forward_hook(start):
            run()
        return started[0].result()


@pytest.mark.parametrize("kind", ["written", "labelled"])
def test_a_bare_call_beside_a_models_own_is_left_as_it_is(kind: str, peft_network: Any) -> None:
    """What a model hooks into the network for a pass is for the calls of its own thread."""
    net = peft_network("llama", layers_to_transform=[1])
    model: Any = CausalLM(net, 8) if kind == "labelled" else LabelTokenClassifier(net, [7, 9], 8)
    guide, ids = LowRankGaussianGuide(model.eval()), torch.tensor([[5, 6, 7, 8]])

    def bare() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = net(input_ids=ids).logits
        return logits

    def run() -> Any:
        if kind == "written":
            written = generate(
                model, guide, ids, num_samples=2, seed=0, max_new_tokens=2, eos_token_id=None
            )
            return written.total
        labels = torch.tensor([[-100, -100, -100, 8]])
        with torch.no_grad():
            return poutine.condition(model, guide.mean())(input_ids=ids, labels=labels)

    expected, own = bare(), run()
    layer = net.get_submodule("base_model.model.model.layers.0")
    results: list[Any] = []
    found = beside_first_pass(layer, lambda: results.append(run()), bare)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(results[0], own)


def test_a_prediction_waits_for_features_of_the_base(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = {k: v for k, v in token_batch().items() if k != "labels"}
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    expected, features = functions(batch), pooled_features(model.network, batch, base=True)
    layer = model.network.get_submodule("base_model.model.bert.encoder.layer.0")
    results: list[Any] = []
    found = beside_first_pass(
        layer,
        lambda: results.append(pooled_features(model.network, batch, base=True)),
        lambda: functions(batch),
    )
    assert torch.equal(found, expected)
    assert torch.equal(results[0], features)


def test_a_second_model_of_a_network_leaves_it_in_its_mode(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = {k: v for k, v in token_batch().items() if k != "labels"}
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    layer = model.network.get_submodule("base_model.model.bert.encoder.layer.0")
    other = beside_first_pass(
        layer, lambda: functions(batch), lambda: SequenceClassifier(model.network, 8)
    )
    assert other.padding_side == model.padding_side
    assert model.network.training
