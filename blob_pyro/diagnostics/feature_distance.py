"""How far the features of a text lie from those of training: what no probability tells."""

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from blob_pyro.diagnostics.predictive import FloatArray, Values, as_numpy

Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureDistance:
    r"""Mahalanobis distance from the nearest class of the training texts.

    :math:`\min_c (x - \mu_c)^\top \Sigma^{-1} (x - \mu_c)` with features of length 1, the means of
    the classes and the covariance that they share.  It is shrunk towards a multiple of the
    identity, :math:`\Sigma = (1 - \rho) S + \rho \operatorname{tr}(S) / D \, I`, with the oracle
    approximating :math:`\rho`, since D features of fewer texts have no other inverse.

    Parameters
    ----------
    class_means
        ``C x D``.
    directions
        Orthonormal, ``R x D``.
    variances
        ``R + 1``: along each direction, and last along any other.

    Examples
    --------
    >>> features = [[9.0, 1.0, 0.1], [9.0, 2.0, 0.0], [1.0, 9.0, 0.0], [2.0, 9.0, 0.1]]
    >>> distance = FeatureDistance.of(features, [0, 0, 1, 1])
    >>> known, stranger = distance([[9.0, 1.5, 0.0], [9.0, 9.0, 9.0]])
    >>> bool(known < stranger)
    True

    References
    ----------
    Lee, Lee, Lee, Shin: "A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks", NeurIPS 2018.  Chen, Wiesel, Eldar, Hero: "Shrinkage algorithms for MMSE
    covariance estimation", 2010.
    """

    class_means: Array
    directions: Array
    variances: Array

    def __post_init__(self) -> None:
        wanted = (len(self.variances) - 1, *self.class_means.shape[1:])
        if self.directions.shape != wanted or not self.variances.min() > 0:
            raise ValueError("the statistics of the features do not fit each other")

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
        x, label = _of_length_one(features), as_numpy(labels)
        _, number = np.unique(label, return_inverse=True)
        members = np.eye(number.max() + 1)[number]
        class_means = (members.T @ x) / members.sum(axis=0)[:, None]
        centred = x - class_means[number]
        if not centred.any():
            return None
        # As they are saved.
        found = (class_means, *_covariance(centred))
        return cls(*(array.astype(np.float32) for array in found))

    def __call__(self, features: Values) -> FloatArray:
        """Give a distance a row of features, ``N x D``; those of strangers are large."""
        x = self._whitened(_of_length_one(features))
        return cdist(x, self._whitened(self.class_means), "sqeuclidean").min(axis=1)

    def _whitened(self, x: FloatArray | Array) -> FloatArray:
        scale = self.variances.astype(np.float64) ** -0.5
        along = (x @ self.directions.T) * (scale[:-1] - scale[-1])
        return np.asarray(x * scale[-1] + along @ self.directions)


def _of_length_one(features: Values) -> FloatArray:
    x = as_numpy(features).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(wrong):
        raise ValueError(f"features[{wrong[0]}] are not finite ({len(wrong)} such rows)")
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _covariance(centred: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give principal directions, the variance along each, and last that along any other."""
    count, size = centred.shape
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    variances = values**2 / count
    mean, square = variances.sum() / size, np.square(variances).sum() / size**2
    excess = (count + 1) * (square - mean**2 / size)
    shrinkage = min((square + mean**2) / excess, 1.0) if excess > 0 else 1.0
    return directions, (1 - shrinkage) * np.append(variances, 0.0) + shrinkage * mean
