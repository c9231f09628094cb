from __future__ import annotations

import torch
from pyro import distributions as dist

from blob_pyro.distributions import LabelledTokens


def test_log_prob_and_gradient_are_those_of_masked_categoricals() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    labelled = torch.rand(3, 5) < 0.6
    labelled[1] = False
    labels = torch.randint(7, (3, 5)).masked_fill(~labelled, -100)
    dense = dist.Categorical(logits=logits).mask(labelled).to_event(1)
    expected = dense.log_prob(labels.clamp(min=0))
    found = LabelledTokens(logits[:, labelled], labelled)
    assert (found.batch_shape, found.event_shape) == ((2, 3), (5,))
    torch.testing.assert_close(found.log_prob(labels), expected)
    weights = torch.rand(2, 3, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), logits)
    (gradient,) = torch.autograd.grad((weights * found.log_prob(labels)).sum(), logits)
    torch.testing.assert_close(gradient, wanted)
