from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blob_pyro.diagnostics import fit_advice, loss_curve

NUM = 200


def records(nll: Any) -> Any:
    return [
        SimpleNamespace(step=step, loss=each, nll=each, kl=0.0, kl_weight=0.0)
        for step, each in enumerate(nll)
    ]


def predictions(confidence: float, accuracy: float) -> tuple[Any, Any]:
    """Two classes, the first always the likelier."""
    logits = np.log([[[confidence, 1 - confidence]] * NUM])
    return logits, (np.arange(NUM) >= round(accuracy * NUM)).astype(int)


FLAT = records([1.0] * 100)
# Per example 0.5 nats less in the last fifth, of ten examples.
FALLING = records([20.0] * 80 + [15.0] * 20)


@pytest.mark.parametrize(
    ("confidence", "accuracy", "advice"),
    [
        (0.6, 0.9, r"unfinished: mean confidence 0.60, accuracy 0.90 \[0.85, 0.93\] on 200 .*200"),
        (0.95, 0.7, r"overdone: mean confidence 0.95, accuracy 0.70 .* half the steps \(50\)"),
    ],
)
@pytest.mark.parametrize("steps", [FLAT, FALLING])
def test_confidence_that_accuracy_does_not_bear_out(
    confidence: float, accuracy: float, advice: str, steps: Any
) -> None:
    given = fit_advice(steps, 10, *predictions(confidence, accuracy))
    assert given is not None
    assert re.search(advice, given)


def test_a_gap_within_the_error_is_no_gap() -> None:
    logits, labels = predictions(0.86, 0.9)
    assert fit_advice(FLAT, 10, logits, labels) is None
    # The same share of six examples is uncertain by more than 0.2.
    assert fit_advice(FLAT, 10, logits[:, -26:], labels[-26:].astype(int)) is not None
    few = np.log([[[0.75, 0.25]] * 6])
    assert fit_advice(FLAT, 10, few, [0] * 6) is None


def test_a_loss_that_still_falls() -> None:
    logits, labels = predictions(0.9, 0.9)
    advice = fit_advice(FALLING, 10, logits, labels)
    assert advice is not None
    assert "still falling, from 2.00 to 1.50 nats an example" in advice
    # Of a thousand examples it is 0.005 nats each.
    assert fit_advice(FALLING, 1000, logits, labels) is None
    noise = np.random.default_rng(0).normal(20, 30, size=100)
    assert fit_advice(records(noise), 10, logits, labels) is None
    assert fit_advice(records([9.0, 1.0]), 1, logits, labels) is None


def test_columns_are_the_records() -> None:
    rows = [SimpleNamespace(step=s, loss=s + 1, nll=2 * s, kl=9, kl_weight=0.5) for s in (4, 5)]
    curve = loss_curve(rows)
    assert [*curve] == ["step", "loss", "nll", "kl", "kl_weight"]
    np.testing.assert_array_equal(curve["step"], [4, 5])
    np.testing.assert_array_equal(curve["nll"], [8, 10])
