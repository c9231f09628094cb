"""Moments of weights along a path of gradient steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch

Weights = Mapping[str, torch.Tensor]


class PathMoments:
    r"""Mean, variance and the last few deviations of weights that are collected one by one.

    After T collections: :math:`\bar\theta_T = \frac{1}{T} \sum_t \theta_t`, the variances
    :math:`\frac{1}{T} \sum_t (\theta_t - \bar\theta_T)^2`, and the last K deviations
    :math:`\theta_t - \bar\theta_t`, each from the mean of its own time.  The sums are Welford's,
    which do not cancel as :math:`E \theta^2 - (E \theta)^2` does in float32; all moments are
    float32 or wider.

    Parameters
    ----------
    num_deviations
        K, the number of deviations that are kept; 0 for none.

    Examples
    --------
    >>> moments = PathMoments(num_deviations=2)
    >>> for value in (1.0, 2.0, 6.0):
    ...     moments.collect({"w": torch.tensor([value])})
    >>> moments.mean["w"], moments.variance()["w"]
    (tensor([3.]), tensor([4.6667]))
    >>> moments.deviations()["w"]
    tensor([[0.5000, 3.0000]])

    References
    ----------
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019,
    algorithm 1; Welford, Technometrics 1962.
    """

    def __init__(self, num_deviations: int) -> None:
        self.num_collected = 0
        self.mean: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}
        self._deviations: deque[dict[str, torch.Tensor]] = deque(maxlen=num_deviations)

    @torch.no_grad()
    def collect(self, weights: Weights) -> None:
        """Take the weights of one point of the path, always of the same names and shapes."""
        self.num_collected += 1
        late = {}
        for name, point in weights.items():
            # In half precision a T-th of a deviation would be lost in the mean.
            weight = point.to(torch.promote_types(point.dtype, torch.float32))
            mean = self.mean.setdefault(name, torch.zeros_like(weight))
            early = weight - mean
            mean += early / self.num_collected
            late[name] = weight - mean
            squares = self._squares.setdefault(name, torch.zeros_like(weight))
            squares += early * late[name]
        self._deviations.append(late)

    def variance(self) -> dict[str, torch.Tensor]:
        """Give the variances over the path, of the shapes of the weights."""
        return {name: squares / self.num_collected for name, squares in self._squares.items()}

    def deviations(self) -> dict[str, torch.Tensor]:
        """Give the last deviations, oldest first, along a new last dimension."""
        return {
            name: torch.stack([late[name] for late in self._deviations], dim=-1)
            for name in self.mean
        }
