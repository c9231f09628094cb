"""What was predicted for a labelled data set, kept so that metrics can be recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset

from blob_pyro.diagnostics import METRICS, auroc, bootstrap_interval, predictive_entropy
from blob_pyro.files.atomic import atomic_file
from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.training import Collator, sharded_predictive

_ARRAYS = ("logits", "labels", "ids")


@dataclass(frozen=True)
class Evaluation:
    """Predictions under K draws for N labelled examples.

    Parameters
    ----------
    logits
        ``K x N x C``, float32; ``-inf`` for options that a question lacks.
    labels
        ``N``, int64; all -1 where no class is right, and only uncertainty can be measured.
    ids
        Names of the examples, ``N``, strings.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]

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

    def ood_auroc(self, other: Evaluation) -> float:
        """Tell how well the predictive entropy separates another set of examples from this one."""
        return auroc(predictive_entropy(self.logits), predictive_entropy(other.logits))

    def first_draws(self, count: int) -> Evaluation:
        """Give the predictions under the first draws alone."""
        return Evaluation(self.logits[:count], self.labels, self.ids)

    def save(self, path: str | Path) -> None:
        """Write a compressed ``.npz`` file that holds no pickle; a crash leaves no half of it."""
        with atomic_file(path) as file:
            np.savez_compressed(file, logits=self.logits, labels=self.labels, ids=self.ids)


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what :meth:`Evaluation.save` wrote.

    Raises
    ------
    ValueError
        If the file is damaged or something else.
    """
    try:
        # Opened here: NumPy leaves a damaged file open.
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            evaluation = Evaluation(*(file[name] for name in _ARRAYS))
        _check_arrays(evaluation)
        return evaluation
    # What a damaged archive breaks first, and with which error, is anyone's guess.
    except Exception as error:
        raise ValueError(
            f"{path} is not an evaluation that blob_pyro saved, or is damaged ({error}); make it "
            "again with blob-pyro evaluate"
        ) from error


def _check_arrays(evaluation: Evaluation) -> None:
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
) -> Evaluation:
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
        Posterior draws; 0 for the posterior mean.
    seed
        Seed of the draws.
    progress
        Show a progress bar.

    Returns
    -------
    Evaluation
        The same in every process, ready to be saved.

    Raises
    ------
    ValueError
        If there are no data, or only some of the batches have labels.
    """
    predictive = sharded_predictive(
        model, guide, data, collator, num_samples, seed, progress=progress
    )
    logits = predictive["logits"].float().numpy()
    labels = predictive.get("labels", torch.full((len(data),), -1)).numpy()
    return Evaluation(logits, labels, np.asarray(data["id"]))
