from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.lora import bayesianize
from blob_pyro.models import LabelTokenClassifier

Batch = dict[str, torch.Tensor]


def run(model: Any, batch: Batch) -> Any:
    trace = poutine.trace(model).get_trace(**batch)
    trace.compute_log_prob()
    return trace


def test_the_sites_of_a_call(
    architecture: tuple[str, str], classifier: Any, padded_batch: Batch
) -> None:
    model = classifier(*architecture, num_data=20)
    trace = run(model, padded_batch)
    assert trace.stochastic_nodes == [*model.sites, "data"]
    assert trace.observation_nodes == ["logits", "labels"]
    trainable = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert set(trace.param_nodes) == trainable
    kinds = {site["type"] for site in trace.nodes.values()}
    assert kinds == {"args", "sample", "param", "return"}
    logits = trace.nodes["logits"]["value"]
    assert logits.shape == (4, 3)
    assert trace.nodes["_RETURN"]["value"] is logits
    # The data's plate scales the likelihood, and nothing else.
    assert {name: trace.nodes[name]["scale"] for name in model.sites} == dict.fromkeys(
        model.sites, 1.0
    )
    chosen = logits.log_softmax(-1)[torch.arange(4), padded_batch["labels"]]
    torch.testing.assert_close(trace.nodes["labels"]["log_prob"], 20 / 4 * chosen)


def test_more_rows_than_data_count_once_each(classifier: Any, token_batch: Any) -> None:
    trace = run(classifier("llama", num_data=2), token_batch())
    assert trace.nodes["labels"]["scale"] == 1.0


def test_labels_that_are_not_given_are_sampled(classifier: Any, token_batch: Any) -> None:
    model, batch = classifier("llama"), token_batch()
    del batch["labels"]
    trace = run(model, batch)
    assert not trace.nodes["labels"]["is_observed"]
    assert trace.nodes["labels"]["value"].shape == (4,)


def test_the_gradient_reaches_every_trainable_parameter(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model = classifier(*architecture)
    guide = LowRankGaussianGuide(model)
    replayed = poutine.replay(model, trace=poutine.trace(guide).get_trace())
    run(replayed, token_batch()).nodes["labels"]["log_prob"].sum().backward()
    for name, parameter in (*model.network.named_parameters(), *guide.named_parameters()):
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not parameter.requires_grad or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_logits_are_float32_or_wider(
    dtype: torch.dtype, expected: torch.dtype, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama").to(dtype)
    with pyro.plate("draws", 2, dim=-2):
        many = model(**token_batch())
    assert many.dtype == model(**token_batch()).dtype == expected


def test_draws_are_tiled_over_the_rows(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model, batch = classifier(*architecture), token_batch()
    with pyro.plate("draws", 3, dim=-2):
        trace = run(model, batch)
    assert trace.nodes["logits"]["value"].shape == (3, 4, 3)
    assert trace.nodes["labels"]["log_prob"].shape == (3, 4)
    for k in range(3):
        draw = {name: trace.nodes[name]["value"][k, 0] for name in model.sites}
        torch.testing.assert_close(
            poutine.condition(model, draw)(**batch),
            trace.nodes["logits"]["value"][k],
            atol=1e-5,
            rtol=1e-4,
        )


def test_one_site_may_be_fixed_among_many_draws(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    name, site = next(iter(model.sites.items()))
    fixed = {name: site.projection.initial_weight}
    with pyro.plate("draws", 3, dim=-2):
        assert poutine.condition(model, fixed)(**token_batch()).shape == (3, 4, 3)


def test_a_text_without_padding_needs_no_mask(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model = classifier(*architecture)
    program = poutine.condition(model, LowRankGaussianGuide(model).mean())
    ids = token_batch()["input_ids"].clamp(min=5)
    expected = program(input_ids=ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(program(input_ids=ids), expected)


def test_padded_text_without_a_mask_is_refused(
    architecture: tuple[str, str], classifier: Any, padded_batch: Batch
) -> None:
    model = classifier(*architecture)
    with pytest.raises(ValueError, match=r"the padding token 1 but there is no attention_mask; pa"):
        model(input_ids=padded_batch["input_ids"])


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_out_of_range_is_refused(
    label: int, architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    batch = token_batch()
    batch["labels"][2] = label
    message = rf"labels\[2\] = {label} but the model has 3 classes; .* integers from 0 to 2"
    with pytest.raises(ValueError, match=message):
        classifier(*architecture)(**batch)


@pytest.mark.parametrize("num_data", [0, -4])
def test_no_data_is_refused(num_data: int, peft_network: Any) -> None:
    net = peft_network("llama")
    parameters = list(net.state_dict())
    with pytest.raises(ValueError, match=rf"num_data={num_data}: a model needs at least one train"):
        LabelTokenClassifier(net, [7, 9], num_data)
    assert list(net.state_dict()) == parameters


@pytest.mark.parametrize("scale", [-0.2, 0.0])
def test_a_prior_scale_is_positive(scale: float, peft_network: Any) -> None:
    with pytest.raises(ValueError, match=rf"prior_scale={scale} is not a standard deviation"):
        LabelTokenClassifier(peft_network("llama"), [7, 9], 4, prior_scale=scale)


def test_a_network_that_is_bayesian_already_keeps_its_prior(peft_network: Any) -> None:
    net = peft_network("llama")
    sites = bayesianize(net, prior_scale=0.5)
    model = LabelTokenClassifier(net, [7, 9], 4, prior_scale=0.5)
    assert list(model.sites) == list(sites)
    message = r"site '.*' has the prior NormalPrior\(scale=0.5\) .* given NormalPrior\(scale=0.2\)"
    with pytest.raises(ValueError, match=message):
        LabelTokenClassifier(net, [7, 9], 4)
