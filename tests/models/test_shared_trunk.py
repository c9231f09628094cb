from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.infer.posterior_functions import DrawsAtOnce
from blob_pyro.models import Classifier, LabelTokenClassifier, SequenceClassifier
from blob_pyro.models.shared_trunk import SharedTrunk
from blob_pyro.testing import tiny_batch, tiny_network
from tests.models.architectures import HEADS, TEXTS, batch_of, peft, texts_of

K = 5
BATCH = batch_of(texts_of(9, 9, 9))


def late(name: str, task_type: str) -> Classifier:
    net = tiny_network(name, task_type, layers_to_transform=[1])
    if task_type == "SEQ_CLS":
        return SequenceClassifier(net, num_data=8)
    return LabelTokenClassifier(net, [5, 6, 7], num_data=8)


def calls_of(model: Classifier, layer: torch.nn.Module) -> list[int]:
    """Note the rows that a layer computes with, in each pass."""
    rows: list[int] = []
    norm = next(m for m in layer.modules() if "Norm" in type(m).__name__)
    norm.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


@pytest.mark.parametrize("parallel", [True, False, 2])
@pytest.mark.parametrize(
    ("name", "task_type"),
    [("bert", "SEQ_CLS"), ("roberta", "SEQ_CLS"), ("llama", "SEQ_CLS"), ("llama", "CAUSAL_LM"),
     ("gpt2", "CAUSAL_LM"), ("qwen2", "CAUSAL_LM")],
)  # fmt: skip
def test_layers_below_the_first_latent_one_run_once_for_all_draws(
    name: str, task_type: str, parallel: bool | int
) -> None:
    model = late(name, task_type)
    guide, batches = LowRankGaussianGuide(model), [tiny_batch(4), tiny_batch(3, 7, 1)]
    wanted = full_passes(model, guide, batches)
    assert wanted["logits"].std(dim=0).max() > 1e-3
    predict(model, guide, batches[:1], parallel)  # has the trial in it
    below = calls_of(model, model.trunk.layers[0])
    found = predict(model, guide, batches, parallel)
    assert below == [4, 3]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # Training and the network itself know nothing of it.
    assert all("forward" not in layer.__dict__ for layer in model.trunk.layers)


def predict(model: Any, guide: Any, batches: Any, parallel: bool | int) -> dict[str, torch.Tensor]:
    return posterior_predictive(model, guide, batches, K, 3, parallel=parallel, progress=False)


def full_passes(model: Classifier, guide: Any, batches: Any) -> dict[str, torch.Tensor]:
    layers, model.trunk.layers = model.trunk.layers, []
    assert layers
    try:
        return predict(model, guide, batches, False)
    finally:
        model.trunk.layers = layers


def test_nothing_is_shared_below_a_latent_layer() -> None:
    assert not SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=8).trunk.layers


def test_a_trunk_that_passes_on_more_than_one_tensor_runs_for_each_draw() -> None:
    model = late("llama", "SEQ_CLS")
    first, second = model.trunk.layers[0], model.network.get_base_model().model.layers[1]
    seen: dict[str, torch.Tensor] = {}
    # The second layer adds what the first one saw on its last call, which is no call of this pass.
    first.mlp.register_forward_hook(lambda _m, _i, output: seen.update(values=output * 1.0))
    second.register_forward_hook(lambda _m, _i, output: output + seen["values"][: len(output)])
    second.register_forward_pre_hook(lambda _m, _i: seen["values"].mul_(0.5))
    guide, batches = LowRankGaussianGuide(model), [tiny_batch(4)]
    wanted = full_passes(model, guide, batches)
    torch.testing.assert_close(predict(model, guide, batches, False), wanted)
    # XLNet has the tokens first, and the examples second.
    assert [*model.trunk.proved.values()] == [False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_that_is_compiled_shares_nothing() -> None:
    net = tiny_network("llama", "SEQ_CLS", layers_to_transform=[1])
    net.get_base_model().model.layers[0].compile()
    assert not SequenceClassifier(net, num_data=8).trunk.layers


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:The following .*_pattern")
@pytest.mark.parametrize("name", [*HEADS, *TEXTS])
def test_every_network_gives_the_logits_of_full_passes(name: str) -> None:
    net = peft(name)
    try:
        model = (
            SequenceClassifier(net, num_data=8)
            if name in HEADS
            else LabelTokenClassifier(net, [5, 6, 7], num_data=8)
        )
    except ValueError as error:
        pytest.skip(str(error))
    # Draws that differ in the last layer only.
    late = {site: model.sites[site] for site in model.sites if re.search(r"\.1\.", site)}
    if not late:
        pytest.skip("one layer")
    first, *others = LowRankGaussianGuide(model, init_scale=0.7).draws(K)
    draws = [first, *({**first, **{site: draw[site] for site in late}} for draw in others)]
    wanted = torch.cat([model.logits_under([draw], **BATCH) for draw in draws])
    model.trunk = SharedTrunk(net, late)
    with torch.no_grad():
        found = DrawsAtOnce(model, draws, parallel=True).logits(BATCH)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # XLNet has the tokens first, and the examples second.
    assert [*model.trunk.proved.values()] == [not name.startswith("XLNet")] * bool(
        model.trunk.layers
    )
