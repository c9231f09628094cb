"""Recomputing the layers in the backward pass changes no gradient, whatever was drawn since."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout

Batch = dict[str, torch.Tensor]
Gradients = dict[str, torch.Tensor]
HANDLERS: dict[str, Any] = {
    "shared draw": nullcontext,
    "flipout": flipout,
    "flipout per token": lambda: flipout(per="token"),
}
# Number of draws, all at once or in a loop.
DRAWS = {"one draw": (1, False), "two draws": (2, False), "two draws at once": (2, True)}


@pytest.fixture(params=HANDLERS)
def handler(request: pytest.FixtureRequest) -> AbstractContextManager[Any]:
    return HANDLERS[request.param]()


@pytest.fixture(params=DRAWS)
def elbo(request: pytest.FixtureRequest) -> ReweightedTrace_ELBO:
    num_particles, vectorized = DRAWS[request.param]
    return ReweightedTrace_ELBO(1, num_particles=num_particles, vectorize_particles=vectorized)


def gradients(model: Classifier, batch: Batch, elbo: Any, handler: Any) -> tuple[Gradients, int]:
    """All draws forward, then all backward; with the number of calls of the first layer."""
    pyro.set_rng_seed(1)
    guide, calls = LowRankGaussianGuide(model, init_scale=0.49), []
    # Flipout under a plate of draws tiles its rows too.
    layer = next(iter(model.sites.values())).layer
    hook = layer.register_forward_hook(lambda *_: calls.append(None))
    model.zero_grad()
    pyro.set_rng_seed(2)
    with handler:
        elbo.differentiable_loss(model, guide, **batch).backward()
    hook.remove()
    found = {
        name: parameter.grad.clone()
        for name, parameter in (*model.named_parameters(), *guide.named_parameters())
        if parameter.requires_grad
    }
    return found, len(calls)


def largest_difference(left: Gradients, right: Gradients) -> float:
    assert list(left) == list(right)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_gradients_are_equal(
    architecture: tuple[str, str], elbo: Any, handler: Any, classifier: Any, token_batch: Any
) -> None:
    model = classifier(*architecture, lora_dropout=0.2).train()
    model.example_axes()  # the trial is no call to count
    plain, calls = gradients(model, token_batch(), elbo, handler)
    model.gradient_checkpointing_enable()
    recomputed, more_calls = gradients(model, token_batch(), elbo, handler)
    assert more_calls == 2 * calls
    assert min(float(gradient.abs().max()) for gradient in plain.values()) > 0
    assert largest_difference(plain, recomputed) == 0.0


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("num_particles", [1, 2])
def test_the_networks_own_method_is_right_for_one_draw_only(
    num_particles: int, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    elbo = ReweightedTrace_ELBO(1, num_particles=num_particles)
    plain, _ = gradients(model, token_batch(), elbo, nullcontext())
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed, _ = gradients(model, token_batch(), elbo, nullcontext())
    difference = largest_difference(plain, recomputed)
    assert difference == 0.0 if num_particles == 1 else difference > 1e-3


def test_a_copy_recomputes_with_its_own_draws(
    elbo: Any, handler: Any, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    plain, _ = gradients(model, token_batch(), elbo, handler)
    model.gradient_checkpointing_enable()
    copied = copy.deepcopy(model)
    recomputed, _ = gradients(copied, token_batch(), elbo, handler)
    assert largest_difference(plain, recomputed) == 0.0


def test_the_current_draw_survives_the_backward_pass(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    model.gradient_checkpointing_enable()
    first, second = (model(**token_batch()).sum() for _ in range(2))
    applied = [site.projection._applied for site in model.sites.values()]
    (first + second).backward()
    assert [site.projection._applied for site in model.sites.values()] == applied
