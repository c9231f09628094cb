"""How far the features of a text lie from those of training: what no probability tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from blob_pyro.diagnostics.predictive import FloatArray, Values, as_numpy

Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureDistance:
    r"""Relative Mahalanobis distance from the classes of the training texts.

    :math:`\min_c d(x, \mu_c, \Sigma) - d(x, \mu_0, \Sigma_0)` with
    :math:`d(x, \mu, \Sigma) = (x - \mu)^\top \Sigma^{-1} (x - \mu)`: the means of the classes with
    the covariance that they share, and mean and covariance of all texts.  Each covariance is shrunk
    towards a multiple of the identity, :math:`(1 - \rho) S + \rho \operatorname{tr}(S) / D \, I`,
    with the oracle approximating :math:`\rho`, since D features of N < D texts have none otherwise.

    Parameters
    ----------
    class_means
        ``C x D``.
    class_directions, class_variances
        Orthonormal, ``R x D``; and ``R + 1``, the last in all other directions.
    mean
        ``D``.
    directions, variances
        Those of all texts.

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(40, 3)) + np.repeat([[0], [9]], 20, 0)
    >>> distance = FeatureDistance.of(features, np.repeat([0, 1], 20))
    >>> inside, between = distance([[9.0, 9.0, 9.0], [9.0, 0.0, 9.0]])
    >>> bool(inside < between)
    True

    References
    ----------
    Ren, Fort, Liu, Roy, Padhy, Lakshminarayanan: "A simple fix to Mahalanobis distance for
    improving near-OOD detection", 2021, arXiv 2106.09022.  Chen, Wiesel, Eldar, Hero: "Shrinkage
    algorithms for MMSE covariance estimation", 2010.
    """

    class_means: Array
    class_directions: Array
    class_variances: Array
    mean: Array
    directions: Array
    variances: Array

    def __post_init__(self) -> None:
        size = len(self.mean)
        for directions, variances in self._covariances():
            wanted = [(size,), (len(variances) - 1, size)]
            if [self.class_means.shape[1:], directions.shape] != wanted or variances.min() <= 0:
                raise ValueError("the statistics of the features do not fit each other")

    def _covariances(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return (self.class_directions, self.class_variances), (self.directions, self.variances)

    @classmethod
    def of(cls, features: Values, labels: Values) -> Self | None:
        """Estimate it from training texts; None if no class has two that differ.

        Parameters
        ----------
        features
            ``N x D``.
        labels
            ``N``, integers.
        """
        x, label = as_numpy(features).astype(np.float64), as_numpy(labels)
        _, number = np.unique(label, return_inverse=True)
        members = np.eye(number.max() + 1)[number]
        class_means = (members.T @ x) / members.sum(axis=0)[:, None]
        within = x - class_means[number]
        if not within.any():
            return None
        mean = x.mean(axis=0)
        found = (class_means, *_covariance(within), mean, *_covariance(x - mean))
        # As they are saved.
        return cls(*(array.astype(np.float32) for array in found))

    def __call__(self, features: Values) -> FloatArray:
        """Give a distance a row of features, ``N x D``; those of strangers are large."""
        x = as_numpy(features).astype(np.float64)
        shared, overall = self._covariances()
        nearest = cdist(
            _whitened(x, *shared), _whitened(self.class_means, *shared), "sqeuclidean"
        ).min(axis=1)
        return np.asarray(nearest - np.square(_whitened(x - self.mean, *overall)).sum(axis=1))


def _covariance(centred: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give principal directions, the variance along each, and last that along any other."""
    count, size = centred.shape
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    variances = values**2 / count
    mean, square = variances.sum() / size, np.square(variances).sum() / size**2
    excess = (count + 1) * (square - mean**2 / size)
    shrinkage = min((square + mean**2) / excess, 1.0) if excess > 0 else 1.0
    return directions, (1 - shrinkage) * np.append(variances, 0.0) + shrinkage * mean


def _whitened(x: FloatArray | Array, directions: Array, variances: Array) -> FloatArray:
    scale = variances.astype(np.float64) ** -0.5
    along = (x @ directions.T) * (scale[:-1] - scale[-1])
    return np.asarray(x * scale[-1] + along @ directions)
