"""Logistic regression on a network's pooled features, as the network's own head."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from torch import nn

from blob_pyro.infer.data_pass import on_device
from blob_pyro.models import SequenceClassifier
from blob_pyro.networks import pooled_features
from blob_pyro.poutine import in_turn

Floats = npt.NDArray[np.float64]
# Of scaled features: from next to nothing to separating the examples.
_STRENGTHS = tuple(10.0**power for power in range(-4, 3))
_NUM_FOLDS = 5


def linear_probe(
    model: SequenceClassifier, batches: Iterable[dict[str, torch.Tensor]], seed: int = 0
) -> float:
    """Make the last layer of a network a logistic regression on what that layer reads.

    Everything else of the network stays as it is.  The regression is scikit-learn's, on features in
    units of their deviation; its strength is the one of least NLL in a stratified cross-validation
    of the examples.

    Parameters
    ----------
    model
        A network with a head; changed in place.
    batches
        Keywords of the model, with ``labels``.
    seed
        Seed of the folds.

    Returns
    -------
    float
        The chosen ``C``.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn is not installed.
    ValueError
        If a class has no example and the layer no bias, or no class has two.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_batch, tiny_network
    >>> model = SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=12)
    >>> linear_probe(model, [tiny_batch(rows=12)]) > 0
    True

    References
    ----------
    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
    """
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "a linear probe needs scikit-learn; install it with: pip install scikit-learn"
        ) from None
    features, labels = _features_and_labels(model, batches)
    weight, bias = _last_layer(model, features.shape[1])
    if len(absent := set(range(len(weight))) - {*labels.tolist()}) and bias is None:
        raise ValueError(
            f"no example has the classes {sorted(absent)}, and the network's last layer has no "
            "bias to rule them out; give examples of every class"
        )
    center = features.mean(axis=0) * (bias is not None)
    # One for all features: dividing by its own would blow up the noise of one that hardly varies.
    deviation = np.sqrt(features.var(axis=0).mean()) or 1.0
    regression = _Regression((features - center) / deviation, labels, len(weight), bias is not None)
    strength = regression.best_strength(seed)
    coefficients, intercept = regression.fit(np.arange(len(labels)), strength)
    coefficients /= deviation
    with torch.no_grad():
        weight.copy_(torch.from_numpy(coefficients))
        if bias is not None:
            bias.copy_(torch.from_numpy(intercept - coefficients @ center))
    return strength


def _features_and_labels(
    model: SequenceClassifier, batches: Iterable[dict[str, torch.Tensor]]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    features, labels, device = [], [], next(model.parameters()).device
    for batch in batches:
        inputs = model.align(on_device(device, batch), model.padding_side)
        side = model.padding_side or "right"
        read = pooled_features(model.network, inputs, padding_side=side)
        features.append(read.cpu())
        labels.append(batch["labels"].cpu())
    return torch.cat(features).double().numpy(), torch.cat(labels).numpy()


def _last_layer(
    model: SequenceClassifier, num_features: int
) -> tuple[nn.Parameter, nn.Parameter | None]:
    shape = (model.num_classes, num_features)
    layers = [
        module
        for _, module, leaf in model.heads.values()
        if leaf == "weight" and module.get_parameter(leaf).shape == shape
    ]
    found: Any = layers[-1]
    return found.weight, found.bias


class _Regression:
    """Multinomial logistic regression of all classes, some of which may have no example."""

    def __init__(
        self, inputs: Floats, labels: npt.NDArray[np.int64], num_classes: int, has_bias: bool
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.num_classes = num_classes
        self.has_bias = has_bias

    def fit(self, rows: npt.NDArray[np.int64], strength: float) -> tuple[Floats, Floats]:
        """Fit to some rows; give coefficients, ``C x D``, and intercepts."""
        from sklearn.linear_model import LogisticRegression

        labels = self.labels[rows]
        present = np.unique(labels)
        coefficients = np.zeros((self.num_classes, self.inputs.shape[1]))
        # What was never seen gets a share of about one in N.
        intercept = np.full(self.num_classes, -np.log(len(rows)) * self.has_bias)
        intercept[present] = 0.0
        if len(present) > 1:
            made = LogisticRegression(C=strength, max_iter=5000, fit_intercept=self.has_bias)
            made.fit(self.inputs[rows], labels)
            # Of two classes, scikit-learn has the difference.
            halves = np.array([[-0.5], [0.5]]) if len(present) == 2 else np.eye(len(present))
            coefficients[present] = halves @ made.coef_
            intercept[present] = halves @ np.broadcast_to(made.intercept_, halves.shape[1])
        return coefficients, intercept

    def best_strength(self, seed: int) -> float:
        """Choose the strength of least NLL on examples left out in turn."""
        from sklearn.model_selection import StratifiedKFold

        most = int(np.bincount(self.labels).max())
        if most < 2:
            raise ValueError(
                "no class has two examples, so cross-validation cannot choose C; give more examples"
            )
        folds = StratifiedKFold(min(_NUM_FOLDS, most), shuffle=True, random_state=seed)
        # Two that overlap could leave the warnings off for good.
        with in_turn(), warnings.catch_warnings():
            # A class may have fewer examples than there are folds.
            warnings.simplefilter("ignore")
            parts = [*folds.split(self.inputs, self.labels)]

        def loss(strength: float) -> float:
            return sum(self._loss(kept, left_out, strength) for kept, left_out in parts)

        return min(_STRENGTHS, key=loss)

    def _loss(
        self, kept: npt.NDArray[np.int64], left_out: npt.NDArray[np.int64], strength: float
    ) -> float:
        coefficients, intercept = self.fit(kept, strength)
        log_p = log_softmax(self.inputs[left_out] @ coefficients.T + intercept, axis=1)
        return -float(log_p[np.arange(len(left_out)), self.labels[left_out]].sum())
