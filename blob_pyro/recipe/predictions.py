"""What a posterior predicts for a data set, under every draw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.diagnostics import (
    METRICS,
    auroc,
    auroc_interval,
    bootstrap_interval,
    dirichlet_mutual_information,
    log_probs,
    max_probability,
    mutual_information,
    predictive_entropy,
)
from blob_pyro.files.atomic import atomic_file
from blob_pyro.guides import DirichletGuide, LoraGuide
from blob_pyro.infer.data_pass import on_device
from blob_pyro.models import Classifier
from blob_pyro.networks import pooled_features
from blob_pyro.networks.reading import reading
from blob_pyro.posthoc.ensemble import learned_state
from blob_pyro.tasks import LongestFirst, class_values
from blob_pyro.training import Collator, sharded_predictive
from blob_pyro.training.sharded_predictive import in_shares

_ARRAYS = ("logits", "labels", "ids")


@dataclass(frozen=True)
class Predictions:
    """Logits of N examples in C classes under K draws, and what follows from them.

    Parameters
    ----------
    logits
        ``K x N x C``, float32; ``-inf`` for options that a question lacks.
    labels
        Class indices, ``N``, int64; -1 where no class is known to be right.
    ids
        Names of the examples, ``N``, strings.
    class_names
        C names; empty where only the indices are known.
    texts
        N texts; empty where they were not kept.
    feature_distance
        How far the features of each text lie from those of the training texts, ``N``, see
        :class:`~blob_pyro.diagnostics.FeatureDistance`; None where it was not asked for, or the
        posterior has none.
    ood
        Predictions of texts out of distribution, if they were asked for.
    settings
        Draws, seed, temperature and a digest of what was learned, on which the probabilities
        depend; empty where unknown.
    threshold
        Probability from which on an answer is given; None where none is known to hold.
    log_precision
        Of a distilled posterior, whose one "draw" is a Dirichlet with concentrations
        ``exp(logits + log_precision)``; None for draws.

    Examples
    --------
    >>> logits = np.log([[[0.9, 0.1]], [[0.5, 0.5]]]).astype(np.float32)
    >>> two_draws = Predictions(logits, np.array([0]), np.array(["a"]), ("login", "printing"))
    >>> two_draws.probabilities.round(2)
    array([[0.7, 0.3]])
    >>> two_draws.classes
    array(['login'], dtype='<U8')
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    class_names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    feature_distance: npt.NDArray[np.float64] | None = None
    ood: Predictions | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    log_precision: float | None = None

    @property
    def probabilities(self) -> npt.NDArray[np.floating[Any]]:
        """Probabilities averaged over the draws, ``N x C``."""
        return np.exp(log_probs(self.logits))

    @property
    def classes(self) -> npt.NDArray[Any]:
        """The most probable class of each example, ``N``: its name, or its index without names."""
        best = self.probabilities.argmax(axis=1)
        return class_values(self.class_names)[best] if self.class_names else best

    @property
    def decisions(self) -> npt.NDArray[np.str_]:
        """``"answer"`` or ``"defer"`` (to a person) for each example, ``N``.

        Raises
        ------
        ValueError
            If there is no threshold that holds for these predictions.
        """
        if self.threshold is None:
            raise ValueError(
                "no threshold holds for these predictions: call choose_threshold, and predict with "
                "the same num_samples and seed"
            )
        return np.where(self.probabilities.max(axis=1) >= self.threshold, "answer", "defer")

    @property
    def total_uncertainty(self) -> npt.NDArray[np.float32]:
        """Entropy of the averaged probabilities, ``N``, in nats."""
        return np.asarray(predictive_entropy(self.logits))

    @property
    def epistemic_uncertainty(self) -> npt.NDArray[np.float32]:
        """Mutual information, the part of it on which the draws disagree, ``N``, in nats."""
        if self.log_precision is not None:
            logs = self.logits[0] + np.float64(self.log_precision)
            return np.asarray(dirichlet_mutual_information(logs))
        return np.asarray(mutual_information(self.logits))

    def to_pandas(self) -> pandas.DataFrame:
        """Give a row an example: class, its probability, and both uncertainties in nats.

        Returns
        -------
        pandas.DataFrame
            Columns ``text`` (if the texts are known), ``class``, ``probability``,
            ``total_uncertainty``, ``epistemic_uncertainty`` and, if known, ``feature_distance``,
            ``decision`` and ``label``; the index holds the ids.
        """
        columns: dict[str, Any] = {"text": self.texts} if self.texts else {}
        columns |= {
            "class": self.classes,
            "probability": self.probabilities.max(axis=1),
            "total_uncertainty": self.total_uncertainty,
            "epistemic_uncertainty": self.epistemic_uncertainty,
        }
        if self.feature_distance is not None:
            columns["feature_distance"] = self.feature_distance
        if self.threshold is not None:
            columns["decision"] = self.decisions
        if self.is_labelled:
            names = class_values(self.class_names) if self.class_names else None
            columns["label"] = self.labels if names is None else names[self.labels]
        return pandas.DataFrame(columns, index=pandas.Index(self.ids, name="id"))

    @property
    def is_labelled(self) -> bool:
        """Whether every example has a right class."""
        return bool((self.labels >= 0).all())

    def metrics(self) -> dict[str, float]:
        """Compute accuracy, ECE, NLL (nats) and Brier score.

        Raises
        ------
        ValueError
            If the examples have no labels.
        """
        if not self.is_labelled:
            raise ValueError(
                "the data have no labels, so nothing can be measured; give labelled data"
            )
        return {name: metric(self.logits, self.labels) for name, metric in METRICS.items()}

    def intervals(self, *, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Compute 95 % bootstrap intervals of the same metrics, over examples."""
        return {
            name: bootstrap_interval(metric, self.logits, self.labels, seed=seed)
            for name, metric in METRICS.items()
        }

    def ood_scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Give what is large for strangers, by name, ``N`` each.

        Mutual information needs two draws or more, or a distilled posterior, and feature distances
        have to be there.
        """
        scores: dict[str, Any] = {"entropy": predictive_entropy(self.logits)}
        if len(self.logits) > 1 or self.log_precision is not None:
            scores["mutual_information"] = self.epistemic_uncertainty
        scores["max_probability"] = -max_probability(self.logits)
        if self.feature_distance is not None:
            scores["feature_distance"] = self.feature_distance
        return scores

    def ood_auroc(self, other: Predictions | None = None) -> dict[str, float]:
        """Tell how well each score separates other examples, those of ``ood``, from these."""
        return {name: auroc(*both) for name, both in self._paired_scores(other).items()}

    def ood_intervals(
        self, other: Predictions | None = None, *, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Compute 95 % bootstrap intervals of the same, over the examples of both."""
        pairs = self._paired_scores(other)
        return {name: auroc_interval(*both, seed=seed) for name, both in pairs.items()}

    def _paired_scores(
        self, other: Predictions | None
    ) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        other = other or self.ood
        if other is None:
            raise ValueError("there are no examples out of distribution; give evaluate ood=...")
        if len(other.logits) != len(self.logits):
            raise ValueError(
                f"the other examples were predicted with {len(other.logits)} draws and these with "
                f"{len(self.logits)}, so their scores do not compare; predict both with as many"
            )
        own, others = self.ood_scores(), other.ood_scores()
        return {name: (own[name], others[name]) for name in own if name in others}

    def first_draws(self, count: int) -> Predictions:
        """Give the predictions under the first draws alone, those of ``ood`` too."""
        ood = None if self.ood is None else self.ood.first_draws(count)
        return replace(self, logits=self.logits[:count], ood=ood, settings={}, threshold=None)

    def save(self, path: str | Path) -> None:
        """Write a compressed ``.npz`` file that holds no pickle; a crash leaves no half of it."""
        with atomic_file(path) as file:
            arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
            if self.log_precision is not None:
                arrays["log_precision"] = self.log_precision
            np.savez_compressed(file, **arrays)


def load_predictions(path: str | Path) -> Predictions:
    """Read what :meth:`Predictions.save` wrote.

    Raises
    ------
    ValueError
        If the file is damaged or something else.
    """
    with reading(path, "make it again with blob-pyro evaluate"):
        # Opened here: NumPy leaves a damaged file open.
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            evaluation = Predictions(*(file[name] for name in _ARRAYS))
            if "log_precision" in file:
                evaluation = replace(evaluation, log_precision=float(file["log_precision"]))
        _check_arrays(evaluation)
        return evaluation


def _check_arrays(evaluation: Predictions) -> None:
    logits, labels, ids = evaluation.logits, evaluation.labels, evaluation.ids
    kinds = (logits.dtype.kind, labels.dtype.kind, ids.dtype.kind)
    if kinds != ("f", "i", "U") or logits.ndim != 3:
        raise ValueError(f"arrays of kinds {kinds} and {logits.ndim} dimensions")
    if not labels.shape == ids.shape == logits.shape[1:2]:
        raise ValueError(f"arrays of shapes {logits.shape}, {labels.shape} and {ids.shape}")


def evaluate(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    num_samples: int = 10,
    seed: int = 0,
    *,
    progress: bool = True,
) -> Predictions:
    """Predict a data set under draws from the posterior, each process its share of it.

    Parameters
    ----------
    model, guide
        The fitted program.
    data
        Examples with a column ``id``, all of them labelled or none.
    collator
        As in :func:`blob_pyro.training.fit`.
    num_samples
        Posterior draws; 0 for the posterior mean.  A distilled posterior takes one pass anyway.
    seed
        Seed of the draws.
    progress
        Show a progress bar.

    Returns
    -------
    Predictions
        The same in every process, ready to be saved.

    Raises
    ------
    ValueError
        If there are no data, or only some of the batches have labels.
    RuntimeError
        If another thread changes the program meanwhile.
    """
    log_precision = guide.log_precision if isinstance(guide, DirichletGuide) else None
    draws = num_samples if log_precision is None else 0
    settings = prediction_settings(model, guide, num_samples, seed)
    predictive = sharded_predictive(model, guide, data, collator, draws, seed, progress=progress)
    if prediction_settings(model, guide, num_samples, seed) != settings:
        raise RuntimeError(
            "the posterior was trained or calibrated by another thread while it predicted, so "
            "these predictions are of no one posterior; predict again"
        )
    logits = predictive["logits"].float().numpy()
    labels = predictive.get("labels", torch.full((len(data),), -1)).numpy()
    return Predictions(
        logits,
        labels,
        np.asarray(data["id"], dtype=str),
        settings=settings,
        log_precision=log_precision,
    )


def prediction_settings(
    model: Classifier, guide: LoraGuide, num_samples: int, seed: int
) -> dict[str, Any]:
    """Give what probabilities depend on: draws, seed, temperature and what was learned.

    Parameters
    ----------
    model, guide, num_samples, seed
        As in :func:`evaluate`.

    Returns
    -------
    dict
        ``num_samples``, ``seed``, ``temperature`` and ``learned``, a digest, JSON values; without
        draws, as of a point estimate, the first two are 0.
    """
    draws = 0 if guide.is_point else num_samples
    digest = hashlib.sha256()
    # Not in the middle of a step, or while a temperature is looked for.
    with model.use.running():
        state, temperature = learned_state(model, guide), model.temperature
    for name, value in sorted(state.items()):
        # Some of them tell one fit from another.
        some = value.flatten()[:: max(1, value.numel() // 4096)].float()
        digest.update(name.encode() + some.cpu().numpy().tobytes())
    return {
        "num_samples": draws,
        "seed": seed if draws else 0,
        "temperature": temperature.tolist(),
        "learned": digest.hexdigest(),
    }


def text_features(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator
) -> npt.NDArray[np.floating[Any]]:
    """Give the pooled features of N texts under the posterior mean, ``N x D``, in every process."""
    side = model.padding_side
    device, (mean,) = next(model.parameters()).device, guide.draws(0)

    def features(mine: Sequence[int]) -> torch.Tensor:
        share = data.select(mine)
        order = LongestFirst.by_tokens(share, collator).order
        loader = DataLoader(
            share.select(order),
            batch_size=16 if side else 1,
            collate_fn=collator,
            # Else it takes a number from the random state that a fit elsewhere draws from.
            generator=torch.Generator(),
        )
        found = []
        for batch in loader:
            with model.under([mean], batch["input_ids"].shape):
                inputs = on_device(device, batch)
                found.append(
                    pooled_features(model.network, inputs, padding_side=side or "right").cpu()
                )
        return torch.cat(found)[torch.as_tensor(order).argsort()]

    parts, rows = in_shares(len(data), features, in_step=model.is_sharded)
    return torch.cat(parts)[rows].numpy()
