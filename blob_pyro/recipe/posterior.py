"""One object for a fitted posterior: it predicts, measures, calibrates, saves and loads."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from datasets import Dataset
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from blob_pyro.diagnostics import FeatureDistance, answer_thresholds, to_arviz
from blob_pyro.files import push_to_hub, save_posterior
from blob_pyro.files.config import CONFIG_FILE, AnswersRecord
from blob_pyro.files.loading import load_with_config
from blob_pyro.files.task import recorded_task, task_record
from blob_pyro.guides import DirichletGuide, LoraGuide
from blob_pyro.infer import Generation, generate
from blob_pyro.models import BayesianLora, Classifier, OptionLikelihood, SequenceClassifier
from blob_pyro.networks import load_tokenizer
from blob_pyro.networks.identity import tokenizer_identity
from blob_pyro.networks.reading import reading
from blob_pyro.posthoc import calibrate, distill
from blob_pyro.recipe.network import switch_task
from blob_pyro.recipe.predictions import (
    Predictions,
    evaluate,
    prediction_settings,
    text_features,
)
from blob_pyro.tasks import (
    Collator,
    MultipleChoiceTask,
    Scoring,
    Task,
    TaskData,
    TextClassificationTask,
    class_values,
    collator_for,
    read_texts,
    text_task,
    texts_of,
)
from blob_pyro.tasks.collators import padded
from blob_pyro.tasks.prompt_tokens import prompt_tokens
from blob_pyro.training import StepRecord, TrainingConfig, sharded_predictive
from blob_pyro.training.progress import TrainingProgress

if TYPE_CHECKING:
    from sklearn.utils import Tags


class Posterior:
    """A fitted posterior over a LoRA adapter, with all that it needs to answer.

    It follows scikit-learn's conventions for a fitted text classifier, so that libraries which take
    one take it.  ``model`` and ``guide`` are a Pyro program.

    Parameters
    ----------
    model, guide
        A fitted program.
    tokenizer
        Tokenizer of the network.
    task
        What it was fitted to; None for a program that classifies nothing, such as a
        :class:`blob_pyro.models.CausalLM`.
    scoring
        How the network answers, see :func:`blob_pyro.tasks.collator_for`.
    method
        Name of the method that fitted it, if known.
    records
        One record for each step of training, if known.
    feature_distance
        Tells how far the features of a text lie from those of the training texts, if known.
    answers
        When it answers, see :meth:`choose_threshold`.

    Examples
    --------
    See :func:`~blob_pyro.recipe.fine_tune`.
    """

    # scikit-learn before 1.6 reads this.
    _estimator_type = "classifier"

    def __init__(
        self,
        model: BayesianLora,
        guide: LoraGuide,
        tokenizer: PreTrainedTokenizerBase,
        task: Task | None = None,
        scoring: Scoring = "options",
        *,
        method: str | None = None,
        records: Sequence[StepRecord] = (),
        feature_distance: FeatureDistance | None = None,
        answers: AnswersRecord | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.tokenizer = tokenizer
        self.task = task
        self.scoring = scoring
        self.method = method
        self.records = list(records)
        self.feature_distance = feature_distance
        self._answers = answers
        if isinstance(model, SequenceClassifier) and isinstance(task, TextClassificationTask):
            # They go with a merged network, for Transformers' pipelines.
            config = model.network.config
            config.id2label = dict(enumerate(task.class_names))
            config.label2id = {name: number for number, name in config.id2label.items()}

    def __repr__(self) -> str:
        sites = self.guide.scale()
        scales = torch.cat([scale.flatten().float() for scale in sites.values()])
        base = self.model.network.peft_config[self.model.adapter].base_model_name_or_path
        lines = [
            f"method: {self.method or 'unknown'} ({type(self.guide).__name__})",
            f"latents: {scales.numel():,} at {len(sites)} sites",
            f"standard deviations: {scales.min():.2g} to {scales.max():.2g}, "
            f"median {scales.median():.2g}",
            f"base model: {base or type(self.model.network.get_base_model()).__name__}",
            f"likelihood: {type(self.model).__name__}",
        ]
        if isinstance(self.task, TextClassificationTask):
            # As Python would write them: control characters are shown.
            names = ", ".join(repr(name)[1:-1] for name in self.task.class_names[:6])
            more = len(self.task.class_names) - 6
            lines.append(f"classes: {names}" + (f" and {more} more" if more > 0 else ""))
        elif self.task is not None:
            lines.append(f"questions: {self.task.name}")
        if self.answers is not None:
            lines.append(f"answers: {self.answers}")
        return "\n  ".join(["Posterior", *lines])

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """Class names, C, in the order of the probabilities; integers if all are whole numbers."""
        return class_values(self._texts().class_names)

    @property
    def collator(self) -> Collator:
        """Turns examples of the task into the batches of ``model``."""
        _ = self.classifier
        return collator_for(cast(Task, self.task), self.tokenizer, self.scoring)

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
            N texts: a list, array or series, or a data set or frame with the column ``text``; a
            data set may name its examples in the column ``id``.  Or a task, whose split ``test`` is
            taken, with its labels if the posterior knows all its classes.
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
            return self._predicted(self._unsure_examples(texts), *run)
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
            Texts out of distribution, of which no labels are needed: as :meth:`predictive` takes
            them, or a file that has ``text_column``.
        num_samples, seed, progress, feature_distance
            As in :meth:`predictive`; beside ``ood``, texts have feature distances anyway.

        Returns
        -------
        Predictions
            ``metrics()`` and ``intervals()`` give accuracy, ECE, NLL (nats) and Brier score;
            ``ood_auroc()`` and ``ood_intervals()`` how well ``ood`` is told apart.

        Raises
        ------
        ValueError
            If a label is none of the classes.
        """
        examples = self._examples(data, labels, text_column, label_column)
        run: Any = {"num_samples": num_samples, "seed": seed, "progress": progress}
        of_texts = isinstance(self.task, TextClassificationTask)
        run["feature_distance"] = feature_distance or (ood is not None and of_texts)
        if isinstance(ood, str | Path):
            ood, _ = read_texts(ood, text_column)
        found = self._predicted(examples, **run)
        return found if ood is None else replace(found, ood=self.predictive(ood, **run))

    def distill(
        self, texts: Any, *, num_samples: int = 10, progress: bool = True, **settings: Any
    ) -> Posterior:
        """Teach the predictions to a plain adapter, which gives them and their uncertainty at once.

        Parameters
        ----------
        texts
            Those that it was fitted to, and as many more as you have; as in :meth:`predictive`.
            For questions, a task, whose split ``train`` is taken.
        num_samples
            Draws K to learn from.
        progress
            Show progress bars.
        **settings
            Settings of :class:`blob_pyro.training.TrainingConfig`, such as ``num_steps``, ``seed``.

        Returns
        -------
        Posterior
            The student, with a network of its own; see :func:`blob_pyro.posthoc.distill`.

        Raises
        ------
        ValueError
            If the posterior has no draws.
        """
        _ = self.classifier
        if isinstance(texts, MultipleChoiceTask):
            self._check_kind(texts)
            data = texts.load("train").data
        else:
            data = self._unlabelled(texts)
        teacher = copy.deepcopy((self.classifier, self.guide))
        config = TrainingConfig(**settings).for_data(len(data))
        console = Console(stderr=True, quiet=not progress)
        with TrainingProgress("distilled", config.total_steps, console) as show:
            student = distill(
                *teacher,
                data,
                self.collator,
                config,
                num_samples,
                progress=progress,
                on_step=show,
            )
        return Posterior(*student, self.tokenizer, self.task, self.scoring, method="distilled")

    def calibrate(
        self,
        data: Any,
        labels: Sequence[str | int] | None = None,
        *,
        text_column: str = "text",
        label_column: str = "label",
        num_samples: int = 10,
        seed: int = 0,
    ) -> float:
        """Fit a temperature to labelled examples that the posterior was not fitted to.

        Parameters
        ----------
        data, labels, text_column, label_column
            As in :meth:`evaluate`.
        num_samples, seed
            As in :meth:`predictive`.

        Returns
        -------
        float
            The temperature, by which all later logits are divided.
        """
        self._check_draws()
        examples = self._examples(data, labels, text_column, label_column)
        loader = self.collator.loader(examples)
        before = self.answers
        found = float(calibrate(self.classifier, self.guide, loader, num_samples, seed))
        if before is not None and self.answers is None:
            warnings.warn(
                f"the threshold {before.threshold:.4f} held at another temperature and is dropped; "
                "call choose_threshold again",
                stacklevel=2,
            )
        return found

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
            :meth:`evaluate`, or what it gave for them.  Texts that were trained on are left out, if
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
        if data.settings.get("temperature") != self.classifier.temperature.tolist():
            raise ValueError(
                "these predictions were not made as this posterior predicts; make new ones"
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

    @property
    def answers(self) -> AnswersRecord | None:
        """When it answers, see :meth:`choose_threshold`; None at another temperature than then."""
        found = self._answers
        if found is None or found.temperature != self.classifier.temperature.tolist():
            return None
        return found

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

    def to_arviz(
        self,
        data: Any,
        labels: Sequence[str | int] | None = None,
        *,
        text_column: str = "text",
        label_column: str = "label",
        num_samples: int = 100,
        seed: int = 0,
    ) -> Any:
        """Convert to an ArviZ object: predictions, likelihoods and the steps of training.

        Parameters
        ----------
        data, labels, text_column, label_column
            As in :meth:`evaluate`.
        num_samples, seed
            As in :meth:`predictive`; ``arviz.loo`` needs at least 25 draws.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            See :func:`blob_pyro.diagnostics.to_arviz`.
        """
        self._check_draws()
        examples = self._examples(data, labels, text_column, label_column)
        predictive = sharded_predictive(
            self.classifier, self.guide, examples, self.collator, num_samples, seed
        )
        return to_arviz(
            predictive,
            records=self.records or None,
            class_names=getattr(self.task, "class_names", None),
            coords={"example": list(examples["id"])},
        )

    def generate(
        self, prompts: Sequence[str], num_samples: int = 10, seed: int | None = None, **options: Any
    ) -> Generation:
        """Write texts after prompts, averaging the probabilities of K draws at every token.

        ``posterior.tokenizer.batch_decode(generation.tokens, skip_special_tokens=True)`` gives the
        texts; see :func:`~blob_pyro.infer.generate` for parameters and returns.
        """
        texts = texts_of(prompts)
        if not texts:
            raise ValueError("there are no prompts; give one or more")
        rows = prompt_tokens(self.tokenizer, texts)
        batch = padded(rows, self.tokenizer.pad_token_id or 0, on_left=True)
        input_ids, mask = (tensor.to(self._device) for tensor in batch)
        return generate(self.model, self.guide, input_ids, mask, num_samples, seed, **options)

    def save(self, folder: str | Path) -> None:
        """Write a folder that :func:`~blob_pyro.recipe.load` reads, and that PEFT reads too."""
        record = None if self.task is None else task_record(self.task, self.scoring)
        save_posterior(
            folder,
            self.model,
            self.guide,
            task=record,
            method=self.method,
            tokenizer=self.tokenizer,
            features=self.feature_distance,
            answers=self.answers,
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to the Hugging Face Hub; options: :func:`~blob_pyro.files.card.push_to_hub`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "posterior")
            return push_to_hub(Path(folder) / "posterior", repo_id, **options)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def classifier(self) -> Classifier:
        """The model, if it classifies.

        Raises
        ------
        ValueError
            If it writes texts only.
        """
        if not isinstance(self.model, Classifier) or self.task is None:
            raise ValueError(f"a {type(self.model).__name__} classifies nothing; use generate")
        return self.model

    def _texts(self) -> TextClassificationTask:
        _ = self.classifier
        if not isinstance(self.task, TextClassificationTask):
            raise ValueError("this posterior answers questions with options; use evaluate(task)")
        return self.task

    def _check_draws(self) -> None:
        if isinstance(self.guide, DirichletGuide):
            raise ValueError(
                "a distilled posterior has no draws, and another temperature would part it from "
                "its adapter; take the posterior that it was distilled from"
            )

    def _unlabelled(self, texts: Any) -> Dataset:
        self._texts()
        if isinstance(texts, Dataset):
            data = texts.remove_columns([c for c in texts.column_names if c == "label"])
        else:
            data = Dataset.from_dict({"text": texts_of(texts)})
        return TaskData.in_memory(data).data

    def _examples(
        self, data: Any, labels: Sequence[str | int] | None, text_column: str, label_column: str
    ) -> Dataset:
        if isinstance(data, MultipleChoiceTask | TextClassificationTask):
            self._check_kind(data)
        if isinstance(data, MultipleChoiceTask):
            switch_task(self.classifier, data, self.tokenizer)
            return data.load("test").data
        if isinstance(self.task, MultipleChoiceTask):
            return data
        if not isinstance(data, TextClassificationTask):
            given = text_task(
                data,
                labels,
                text_column=text_column,
                label_column=label_column,
                class_names=self._texts().class_names,
            )
            return _numbered_alike(given.splits["train"], given, self._texts())
        return _numbered_alike(data.load("test").data, data, self._texts())

    def _unsure_examples(self, task: Task) -> Dataset:
        """Give the split ``test`` of a task that may have other classes."""
        self._check_kind(task)
        data = task.load("test").data
        if isinstance(task, TextClassificationTask):
            known = set(task.class_names) <= set(self._texts().class_names)
            if not known or any(label < 0 for label in data["label"]):
                return data.remove_columns("label")
        return self._examples(replace(task, splits={"test": data}), None, "text", "label")

    def _check_kind(self, task: Task) -> None:
        if type(task) is not type(self.task):
            raise ValueError(
                f"{task.name} is of another kind than what this posterior was fitted to; questions "
                "and texts do not mix"
            )

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
                "there is no feature distance, since this posterior answers questions, or holds no "
                "statistics of its training texts (fit it anew with fine_tune to have them)",
                stacklevel=3,
            )
        if feature_distance and distance is not None:
            features = text_features(self.classifier, self.guide, data, self.collator)
            predictions = replace(predictions, feature_distance=distance(features))
        with suppress(ValueError):
            limit = self.threshold(num_samples=num_samples, seed=seed)
            predictions = replace(predictions, threshold=limit)
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

    def fit(self, texts: Any, labels: Any) -> NoReturn:
        """Refuse: it is fitted already.  scikit-learn asks every estimator for this method."""
        raise ValueError(
            "this posterior is fitted; call blob_pyro.fine_tune for another one, or wrap it in "
            "sklearn.frozen.FrozenEstimator"
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn that there is nothing to fit."""
        return True

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that this is a classifier of texts."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
            requires_fit=False,
        )


def load(
    folder: str | Path,
    base_model: nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Posterior:
    """Load a posterior that :meth:`Posterior.save` or ``blob-pyro train`` wrote.

    Parameters
    ----------
    folder
        The folder.
    base_model
        As in :func:`~blob_pyro.files.load_posterior`; None loads the network that the folder names.
    tokenizer
        Its tokenizer; None loads it by the same name.

    Returns
    -------
    Posterior
        On the GPU if there is one.

    Raises
    ------
    ValueError
        If the folder is no posterior, is damaged, or its classes are not those of its model.
    """
    folder = Path(folder)
    config, model, guide, features = load_with_config(folder, base_model)
    record = config.task
    task: Task | None = None
    scoring: Scoring = "options"
    if isinstance(model, Classifier):
        if not record:
            raise ValueError(
                f"{folder} does not say what its classes are; use save_posterior(..., task=...)"
            )
        with reading(folder / CONFIG_FILE):
            task, scoring = recorded_task(record)
        _check_answers(folder, model, task, scoring)
    if base_model is None:
        device = Accelerator().device
        model.to(device)
        guide.to(device)
    if tokenizer is None:
        name = model.network.peft_config[model.adapter].base_model_name_or_path
        tokenizer = load_tokenizer(str(name))
    if config.base_model.tokenizer not in (None, tokenizer_identity(tokenizer)):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} is not the one that {folder} was fitted "
            "with; pass that one as tokenizer"
        )
    return Posterior(
        model,
        guide,
        tokenizer,
        task,
        scoring,
        method=config.method,
        feature_distance=features,
        answers=config.answers,
    )


def _numbered_alike(
    data: Dataset, given: TextClassificationTask, known: TextClassificationTask
) -> Dataset:
    """Give texts the label numbers of the task that a posterior was fitted to.

    Raises
    ------
    ValueError
        If the texts have a class that the posterior does not know, or none.
    """
    if any(label < 0 for label in data["label"]):
        raise ValueError(
            f"{given.name} has no labels, so nothing can be measured; predict it, or name it with "
            "--ood"
        )
    unknown = sorted(set(given.class_names) - set(known.class_names))
    if unknown:
        raise ValueError(
            f"the data have the labels {unknown}, which the posterior does not know; it knows "
            f"{list(known.class_names)}"
        )
    index = [known.class_names.index(name) for name in given.class_names]
    labels = [index[label] for label in data["label"]]
    return data.remove_columns("label").add_column("label", labels)


def _check_answers(folder: Path, model: Classifier, task: Task, scoring: Scoring) -> None:
    """Refuse a record that would have the model answer what it was not fitted to."""
    options = isinstance(task, MultipleChoiceTask) and scoring == "options"
    head = isinstance(model, SequenceClassifier)
    if head != (scoring == "head") or isinstance(model, OptionLikelihood) != options:
        raise ValueError(
            f"{folder / CONFIG_FILE}: its task {task.name}, answered by {scoring!r}, is not that "
            f"of its {type(model).__name__}; restore the folder from a copy"
        )
