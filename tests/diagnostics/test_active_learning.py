import numpy as np
import pytest

from blob_pyro.diagnostics import bald, mutual_information, variation_ratio


def test_bald_is_mutual_information() -> None:
    assert bald is mutual_information


def test_variation_ratio_is_the_chance_of_error_if_the_model_is_right() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 7, 3))
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(variation_ratio(logits), 1 - probs.max(-1), rtol=1e-12)


def test_variation_ratio_checks_its_logits() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2,\); wanted three dimensions"):
        variation_ratio([0.0, 1.0])
