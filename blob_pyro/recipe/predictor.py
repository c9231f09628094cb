"""What a fitted program predicts, and which of its answers to give."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from blob_pyro.diagnostics import answer_thresholds
from blob_pyro.files.config import AnswersRecord
from blob_pyro.recipe.predictions import Predictions, evaluate, prediction_settings, text_features
from blob_pyro.recipe.program import Program
from blob_pyro.tasks import MultipleChoiceTask, TextClassificationTask, read_texts


class Predictor(Program):
    """A program that predicts, measures and decides."""

    def predict(self, texts: Any, *, num_samples: int = 10, seed: int = 0) -> npt.NDArray[Any]:
        """Give the most probable class of each of N texts, by name; see :meth:`predictive`."""
        return self.predictive(texts, num_samples=num_samples, seed=seed).classes

    def predict_proba(
        self, texts: Any, *, num_samples: int = 10, seed: int = 0
    ) -> npt.NDArray[np.floating[Any]]:
        """Give probabilities averaged over draws, ``N x C``; see :meth:`predictive`."""
        return self.predictive(texts, num_samples=num_samples, seed=seed).probabilities

    def predictive(
        self,
        texts: Any,
        *,
        num_samples: int = 10,
        seed: int = 0,
        progress: bool = True,
        feature_distance: bool = False,
    ) -> Predictions:
        """Predict texts under draws from the posterior.

        Parameters
        ----------
        texts
            N texts: a list, array or series, or a data set or frame with the column ``text``, which
            may have ``id`` and ``text_pair`` too.  Or a task, whose split ``test`` is taken, with
            its labels if the posterior knows all its classes.
        num_samples
            Number of draws K; 0 for the posterior mean.
        seed
            Seed of the draws: the same seed gives the same K functions.
        progress
            Show a progress bar.
        feature_distance
            Give the distance of each text's features too, by a further pass under the posterior
            mean; a warning says if this posterior has none.

        Returns
        -------
        Predictions
            Logits of every draw, averaged probabilities, classes, total and epistemic uncertainty.
        """
        run = (num_samples, seed, progress, feature_distance)
        if isinstance(texts, MultipleChoiceTask | TextClassificationTask):
            with self._unsure_examples(texts) as examples:
                return self._predicted(examples, *run)
        return self._predicted(self._unlabelled(texts), *run)

    def evaluate(
        self,
        data: Any,
        labels: Sequence[str | int] | None = None,
        *,
        text_column: str = "text",
        label_column: str = "label",
        ood: Any = None,
        num_samples: int = 10,
        seed: int = 0,
        progress: bool = True,
        feature_distance: bool = False,
    ) -> Predictions:
        """Predict labelled examples, for metrics and their intervals.

        Parameters
        ----------
        data, labels, text_column, label_column
            As in :func:`blob_pyro.tasks.text_task`; or a task, whose split ``test`` is taken.
        ood
            Texts out of distribution, without labels: as :meth:`predictive` takes
            them, or a file that has ``text_column``.
        num_samples, seed, progress, feature_distance
            As in :meth:`predictive`; with ``ood``, texts always have feature distances.

        Returns
        -------
        Predictions
            ``metrics()`` and ``intervals()`` give accuracy, ECE, NLL (nats) and Brier score;
            ``ood_auroc()`` and ``ood_intervals()`` say how well ``ood`` is detected.

        Raises
        ------
        ValueError
            If a label is none of the classes.
        """
        run: Any = {"num_samples": num_samples, "seed": seed, "progress": progress}
        of_texts = isinstance(self.task, TextClassificationTask)
        run["feature_distance"] = feature_distance or (ood is not None and of_texts)
        if isinstance(ood, str | Path):
            ood, _ = read_texts(ood, text_column)
        with self._examples(data, labels, text_column, label_column) as examples:
            found = self._predicted(examples, **run)
        if ood is None:
            return found
        # Where there are none, one warning is enough.
        run["feature_distance"] = found.feature_distance is not None
        return replace(found, ood=self.predictive(ood, **run))

    def choose_threshold(
        self,
        data: Any,
        labels: Sequence[str | int] | None = None,
        *,
        max_error: float = 0.05,
        confidence_level: float = 0.95,
        text_column: str = "text",
        label_column: str = "label",
        num_samples: int = 10,
        seed: int = 0,
    ) -> AnswersRecord:
        """Choose the probability from which on to answer, so that few answers are wrong.

        Of the answers to further examples of the same kind, at most ``max_error`` are wrong, with
        probability ``confidence_level`` over the held-out ones; see
        :class:`~blob_pyro.diagnostics.AnswerThresholds`.  Predictions with the same draws then say
        ``answer`` or ``defer``.

        Parameters
        ----------
        data
            Labelled examples that neither the fit nor :meth:`calibrate` has seen, as in
            :meth:`evaluate`, or its result for them.  Texts that were trained on are left out, if
            they are still known.
        labels, text_column, label_column
            As in :meth:`evaluate`.
        max_error
            Largest share of wrong answers, between 0 and 1.
        confidence_level
            Probability that it holds, between 0 and 1.
        num_samples, seed
            As in :meth:`predictive`, and as all later predictions.

        Returns
        -------
        AnswersRecord
            The ``threshold`` and its evidence, which is saved with the posterior.

        Raises
        ------
        ValueError
            If there are too few examples, or too many of them are answered wrong.
        """
        if not isinstance(data, Predictions):
            columns: Any = {"text_column": text_column, "label_column": label_column}
            data = self.evaluate(data, labels, num_samples=num_samples, seed=seed, **columns)
        draws, drawn_by = (data.settings.get(name, 0) for name in ("num_samples", "seed"))
        if data.settings != prediction_settings(self.classifier, self.guide, draws, drawn_by):
            raise ValueError(
                "these predictions were not made by this posterior as it is now; make new ones"
            )
        rows = self._not_trained_on(data.texts) if data.texts else slice(None)
        thresholds = answer_thresholds(
            data.logits[:, rows], data.labels[rows], confidence_level=confidence_level
        )
        thresholds.best(max_error)
        self._answers = AnswersRecord.model_validate(
            {**thresholds.model_dump(), **data.settings, "max_error": max_error}
        )
        return self._answers

    def threshold(
        self, max_error: float | None = None, *, num_samples: int = 10, seed: int = 0
    ) -> float:
        """Give the probability from which on to answer.

        Parameters
        ----------
        max_error
            Largest share of wrong answers; None for the one that was chosen.  The held-out examples
            of :meth:`choose_threshold` bound the errors for all of them.
        num_samples, seed
            What is predicted with.

        Raises
        ------
        ValueError
            If no threshold was chosen, or for other draws, or no bound is so low.
        """
        answers = self.answers
        if answers is None:
            raise ValueError(
                "no threshold was chosen for this posterior (as it is calibrated now); call "
                "choose_threshold, or blob-pyro evaluate --max-error, with held-out examples"
            )
        settings = prediction_settings(self.classifier, self.guide, num_samples, seed)
        chosen = {name: getattr(answers, name) for name in settings}
        if settings != chosen:
            raise ValueError(
                f"the threshold was chosen for {answers.num_samples} draws with seed "
                f"{answers.seed}, not for {num_samples} with seed {seed}; predict with those"
            )
        if max_error is None:
            return answers.threshold
        return answers.thresholds[answers.best(max_error)]

    def _predicted(
        self,
        data: Dataset,
        num_samples: int,
        seed: int,
        progress: bool = True,
        feature_distance: bool = False,
    ) -> Predictions:
        predictions = evaluate(
            self.classifier, self.guide, data, self.collator, num_samples, seed, progress=progress
        )
        distance = self.feature_distance
        if feature_distance and distance is None:
            warnings.warn(
                "there is no feature distance: this posterior holds no statistics of its training "
                "texts, which fine_tune gathers (one that is distilled, or of questions, has none)",
                stacklevel=3,
            )
        if feature_distance and distance is not None:
            features = text_features(self.classifier, self.guide, data, self.collator)
            predictions = replace(predictions, feature_distance=distance(features))
        if self._answers is not None and self._answers.hold_for(predictions.settings):
            predictions = replace(predictions, threshold=self._answers.threshold)
        if not isinstance(self.task, TextClassificationTask):
            return predictions
        texts = tuple(data["text"])
        return replace(predictions, class_names=self.task.class_names, texts=texts)

    def _not_trained_on(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Find the texts that are not among those of training, as far as these are known."""
        train = self._texts().splits.get("train")
        # Pairs may share one of their texts.
        if train is None or "text_pair" in train.column_names:
            return np.arange(len(texts))
        known = set(train["text"])
        rows = np.array(
            [row for row, text in enumerate(texts) if text not in known], dtype=np.int64
        )
        shared = (
            f"{len(texts) - len(rows)} of {len(texts)} held-out examples are in the training data"
        )
        if not len(rows):
            raise ValueError(f"{shared}; give examples that were not trained on")
        if len(rows) < len(texts):
            warnings.warn(f"{shared} too, and are left out", stacklevel=3)
        return rows
