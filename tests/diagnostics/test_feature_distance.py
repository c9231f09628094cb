from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import OAS

from blob_pyro.diagnostics import FeatureDistance


def made_up(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes, some directions wider than others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=count) * 2
    noise = rng.normal(size=(count, size)) * np.linspace(0.1, 2, size)
    return rng.normal(size=(5, size))[labels] + noise, labels


@pytest.mark.parametrize(("count", "size"), [(200, 5), (20, 50)])
def test_distances_are_those_of_the_formula_under_scikit_learns_covariance(
    count: int, size: int
) -> None:
    features, labels = made_up(count, size)
    unit = [x / np.linalg.norm(x) for x in features]
    means = {
        label: np.mean([x for x, of in zip(unit, labels, strict=True) if of == label], 0)
        for label in {*labels.tolist()}
    }
    centred = np.stack([x - means[label] for x, label in zip(unit, labels, strict=True)])
    precision = OAS(assume_centered=True).fit(centred).precision_

    def wanted(x: np.ndarray) -> float:
        x = x / np.linalg.norm(x)
        return min((x - mean) @ precision @ (x - mean) for mean in means.values())

    distance = FeatureDistance.of(features, labels)
    assert distance is not None
    assert distance.class_means.shape == (3, size)
    texts = np.concatenate([features[:5], np.random.default_rng(1).normal(size=(5, size)) * 3])
    np.testing.assert_allclose(distance(texts), [wanted(x) for x in texts], rtol=1e-4)


def test_texts_that_do_not_differ_have_no_distance() -> None:
    assert FeatureDistance.of(np.eye(3), np.arange(3)) is None
    assert FeatureDistance.of(np.ones((4, 3)), np.array([0, 0, 1, 1])) is None


def test_two_texts_of_a_class_are_enough() -> None:
    distance = FeatureDistance.of(np.array([[0.0, 1, 0], [1, 0, 0]]), np.zeros(2))
    assert distance is not None
    assert np.isfinite(distance(np.eye(3))).all()


def test_statistics_that_do_not_belong_together_are_refused() -> None:
    fields = vars(FeatureDistance.of(*made_up(20, 4)))
    for change in ({"class_means": np.zeros((3, 5))}, {"variances": np.zeros(5)}):
        with pytest.raises(ValueError, match="statistics of the features do not fit"):
            FeatureDistance(**{**fields, **change})


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_features_that_are_no_numbers_have_no_distance(number: float) -> None:
    features, labels = made_up(20, 5)
    found = FeatureDistance.of(features, labels)
    assert found is not None
    features[3, 1] = number
    with pytest.raises(ValueError, match=r"features\[3\] are not finite \(1 such rows\)"):
        found(features)
