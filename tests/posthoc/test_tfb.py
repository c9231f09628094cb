"""The search for a scale, against draws that unmodified PEFT predicts with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel

from blob_pyro.guides import PointEstimateGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.posthoc import tfb


@pytest.fixture(params=["llama", "bert"])
def model(request: pytest.FixtureRequest, classifier: Any) -> Any:
    task_type = "CAUSAL_LM" if request.param == "llama" else "SEQ_CLS"
    return classifier(request.param, task_type)


def anchor_loss(
    model: Any, scale: float, batch: Any, num_samples: int, peft_logits: Any
) -> torch.Tensor:
    """The mean NLL under the mean probabilities of draws, by unmodified PEFT."""
    torch.manual_seed(0)
    total = torch.zeros(())
    for _ in range(num_samples):
        weights = {}
        for name, site in model.sites.items():
            mean = site.projection.initial_weight
            norms = site.lora_B.detach().square().sum(0).sqrt()
            weights[name] = mean + scale / norms[:, None] * torch.randn_like(mean)
        total = total + peft_logits(model, weights, batch).softmax(-1) / num_samples
    return -total.log().gather(1, batch["labels"][:, None]).mean()


def test_it_is_the_largest_scale_that_keeps_the_loss(
    model: Any, token_batch: Any, peft_logits: Any
) -> None:
    batch = token_batch(4)
    before = posterior_predictive(model, PointEstimateGuide(model), [batch], 0, progress=False)
    guide = tfb(model, [batch], tolerance=0.02, num_samples=3, progress=False)
    after = posterior_predictive(model, guide, [batch], 0, progress=False)
    torch.testing.assert_close(after["logits"], before["logits"], atol=1e-5, rtol=0)
    reference = anchor_loss(model, 0.0, batch, 1, peft_logits)
    kept, beyond = (
        abs(anchor_loss(model, factor * guide.update_scale, batch, 3, peft_logits) - reference)
        for factor in (1, 1.015)
    )
    assert kept <= 0.02 * reference * 1.001
    assert beyond > 0.02 * reference * 0.999


def test_a_larger_tolerance_gives_a_larger_scale(model: Any, token_batch: Any) -> None:
    batch = token_batch(4)
    scales = [
        tfb(model, [batch], tolerance=tolerance, num_samples=1, progress=False).update_scale
        for tolerance in (0.002, 0.05)
    ]
    assert scales == sorted(set(scales))


def test_without_labels_the_most_likely_classes_serve(model: Any, token_batch: Any) -> None:
    batch = token_batch(4)
    at_mean = posterior_predictive(model, PointEstimateGuide(model), [batch], 0, progress=False)
    batch["labels"] = at_mean["logits"][0].argmax(-1)
    found = tfb(copy.deepcopy(model), [batch], num_samples=1, progress=False).update_scale
    del batch["labels"]
    # An iterator will do, though it is gone over many times.
    assert tfb(model, iter([batch]), num_samples=1, progress=False).update_scale == found


def test_a_stock_adapter_from_a_folder(peft_network: Any, token_batch: Any, tmp_path: Any) -> None:
    net = peft_network("bert", "SEQ_CLS").eval()
    net.save_pretrained(tmp_path)
    batch = token_batch(3)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = net(**inputs).logits
    loaded = PeftModel.from_pretrained(copy.deepcopy(net).unload(), tmp_path)
    model = SequenceClassifier(loaded, num_data=1)
    guide = tfb(model, [batch], num_samples=2, progress=False)
    found = posterior_predictive(model, guide, [batch], 0, progress=False)["logits"][0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_random_state_and_the_mode_are_left_alone(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama", lora_dropout=0.5).train()
    state = torch.get_rng_state()
    tfb(model, [token_batch(3)], num_samples=2, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 1e9}, r"without variance, .* keeps it to a tolerance of 1e\+09; give"),
        (
            {"tolerance": 1e-14},
            "no scale between is the largest that keeps it to a tolerance of 1e",
        ),
    ],
)
def test_wrong_arguments_are_named(
    arguments: Any, message: str, classifier: Any, token_batch: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        tfb(classifier("llama"), [token_batch()], **{"num_samples": 2, **arguments}, progress=False)


def test_an_untrained_adapter_is_refused(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    for site in model.sites.values():
        site.lora_B.data.zero_()
    with pytest.raises(ValueError, match="or an adapter that has been trained"):
        tfb(model, [token_batch()], progress=False)
