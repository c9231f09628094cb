from __future__ import annotations

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
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


def test_a_network_that_is_compiled_shares_nothing() -> None:
    net = tiny_network("llama", "SEQ_CLS", layers_to_transform=[1])
    net.get_base_model().model.layers[0].compile(backend="eager")
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


@pytest.mark.parametrize("hook", [False, True])
def test_a_hook_set_after_the_trial_reads_and_changes_each_pass(hook: bool) -> None:
    model = late("llama", "SEQ_CLS")
    guide, batches = LowRankGaussianGuide(model), [tiny_batch(4)]
    predict(model, guide, batches, True)
    layer, seen = model.trunk.layers[0], []
    if hook:
        layer.register_forward_hook(lambda _m, _i, output: output + 0.5)
    else:
        layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    found = predict(model, guide, batches, True)
    model.trunk.layers, model.trunk.proved = [], {}
    wanted = predict(model, guide, batches, True)
    torch.testing.assert_close(found, wanted)


def test_a_bare_call_in_another_thread_keeps_its_own_text() -> None:
    model = late("llama", "SEQ_CLS").eval()
    trunk, (first, second) = model.trunk, model.network.get_base_model().model.layers
    other = {name: value for name, value in tiny_batch(4, seed=1).items() if name != "labels"}
    with ThreadPoolExecutor(1) as pool, torch.no_grad():

        def bare() -> torch.Tensor:
            with torch.no_grad():
                return pool.submit(lambda: model.network(**other).logits).result()

        wanted, seen = bare(), []

        def meanwhile(*_: Any) -> None:
            if get_ident() == own_thread:
                seen.append(bare())

        own_thread = get_ident()
        # In the midst of the pass that keeps, and of one that passes by.
        second.register_forward_pre_hook(meanwhile)
        draws = LowRankGaussianGuide(model).draws(2)
        full = torch.cat([model.logits_under([draw], **tiny_batch(4)) for draw in draws])
        for draw in draws:
            with trunk.shared(1):
                found = model.logits_under([draw], **tiny_batch(4))
                copied = copy.deepcopy(first)
            torch.testing.assert_close(seen[-1], wanted)
        torch.testing.assert_close(found[0], full[1])
        states = torch.ones(4, 6, 16)
        embeddings = model.network.get_base_model().model.rotary_emb(states, torch.arange(6)[None])
        trunk.forget()
        given, own = (layer(states, position_embeddings=embeddings) for layer in (copied, first))
        torch.testing.assert_close(given, own)


def test_each_kind_of_pass_has_a_trial() -> None:
    """One draw a pass says nothing of draws that are tiled: XLNet has the tokens first."""
    name = "XLNetForSequenceClassification"
    model = SequenceClassifier(net := peft(name), num_data=8)
    late = {site: model.sites[site] for site in model.sites if re.search(r"\.1\.", site)}
    first, second, third = LowRankGaussianGuide(model, init_scale=0.7).draws(3)
    draws = [first, *({**first, **{s: d[s] for s in late}} for d in (second, third))]
    model.trunk = SharedTrunk(net, late)
    with torch.no_grad():
        functions = DrawsAtOnce(model, draws, parallel=True)
        functions.logits(batch_of(texts_of(*[30] * 20)))
        assert [*model.trunk.proved.values()] == [True]
        wanted = torch.cat([model.logits_under([draw], **BATCH) for draw in draws])
        torch.testing.assert_close(functions.logits(BATCH), wanted, rtol=1e-4, atol=1e-4)


def test_members_with_a_head_share_nothing_below_it() -> None:
    net = tiny_network(
        "llama", "SEQ_CLS", layers_to_transform=[1], modules_to_save=["score", "embed_tokens"]
    )
    model, places = SequenceClassifier(net, num_data=8, latent=("A", "B")), []
    guide = LowRankGaussianGuide(model)
    own = {name: module.get_parameter(leaf) for name, (_, module, leaf) in model.heads.items()}
    # They differ in tokens that the first batch lacks.
    for draw in guide.draws(3):
        heads = {name: value.detach().clone() for name, value in own.items()}
        next(value for name, value in heads.items() if "embed" in name)[50:].normal_()
        places.append({**draw, **heads})
    ids = torch.arange(5, 25).reshape(4, 5)
    with torch.no_grad():
        functions = DrawsAtOnce(model, places, parallel=False)
        functions.logits({"input_ids": ids})
        wanted = torch.cat([model.logits_under([d], input_ids=ids + 30) for d in places])
        torch.testing.assert_close(functions.logits({"input_ids": ids + 30}), wanted)
