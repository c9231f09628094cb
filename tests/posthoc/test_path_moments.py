from __future__ import annotations

import numpy as np
import torch

from blob_pyro.posthoc import PathMoments


def test_moments_of_a_recorded_path_are_numpys() -> None:
    path = {"a": torch.randn(17, 2, 3).double().cumsum(0), "b": torch.randn(17, 4).double()}
    moments = PathMoments(num_deviations=5)
    for t in range(17):
        # What is collected is copied: an optimiser changes its parameters in place.
        point = {name: values[t].clone() for name, values in path.items()}
        moments.collect(point)
        for value in point.values():
            value.zero_()
    assert moments.num_collected == 17
    for name, values in path.items():
        array = values.numpy()
        np.testing.assert_allclose(moments.mean[name], array.mean(0), atol=1e-12)
        np.testing.assert_allclose(moments.variance()[name], array.var(0), atol=1e-12)
        means = array.cumsum(0) / np.arange(1, 18).reshape(-1, *[1] * (array.ndim - 1))
        late = np.moveaxis((array - means)[-5:], 0, -1)
        np.testing.assert_allclose(moments.deviations()[name], late, atol=1e-12)


def test_a_small_variance_far_from_zero_survives_float32() -> None:
    path = 10 + 1e-4 * torch.randn(50, 30)
    moments = PathMoments(num_deviations=0)
    for point in path:
        moments.collect({"w": point})
    assert moments.variance()["w"].min() >= 0
    # E x^2 - (E x)^2 would be off by about 100 x 1e-7, a thousand times the variance.
    expected = path.double().var(0, correction=0)
    relative = (moments.variance()["w"] / expected - 1).abs().max()
    assert relative < 0.05


def test_half_precision_is_widened() -> None:
    moments = PathMoments(num_deviations=2)
    path = torch.tensor([1.0] + 49 * [1.0625], dtype=torch.bfloat16)
    for point in path:
        moments.collect({"w": point[None]})
    torch.testing.assert_close(moments.mean["w"], path.float().mean()[None])
    expected = path.float().var(correction=0)[None]
    torch.testing.assert_close(moments.variance()["w"], expected, atol=0, rtol=1e-4)
    assert moments.deviations()["w"].dtype == torch.float32


def test_fewer_points_than_deviations_give_fewer() -> None:
    moments = PathMoments(num_deviations=5)
    moments.collect({"w": torch.ones(2)})
    moments.collect({"w": torch.zeros(2)})
    assert torch.equal(moments.deviations()["w"], torch.tensor([[0.0, -0.5], [0.0, -0.5]]))
