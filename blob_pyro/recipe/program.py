"""A fitted program, and the examples that it can answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from blob_pyro.diagnostics import FeatureDistance
from blob_pyro.files.config import AnswersRecord
from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora, Classifier, SequenceClassifier
from blob_pyro.networks import quantization_of
from blob_pyro.recipe.network import answering
from blob_pyro.recipe.predictions import prediction_settings
from blob_pyro.tasks import (
    Collator,
    MultipleChoiceTask,
    Scoring,
    Task,
    TaskData,
    TextClassificationTask,
    class_values,
    collator_for,
    text_task,
    texts_by_column,
)
from blob_pyro.tasks.task_data import with_column
from blob_pyro.training import StepRecord

if TYPE_CHECKING:
    from sklearn.utils import Tags


class Program:
    """What a :class:`~blob_pyro.recipe.Posterior` is made of, and what scikit-learn asks of it."""

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
        quantization = quantization_of(self.model.network)
        lines = [
            f"method: {self.method or 'unknown'} ({type(self.guide).__name__})",
            f"latents: {scales.numel():,} at {len(sites)} sites",
            f"standard deviations: {scales.min():.2g} to {scales.max():.2g}, "
            f"median {scales.median():.2g}",
            f"base model: {base or type(self.model.network.get_base_model()).__name__}"
            + (f", quantised by {quantization['quant_method']}" if quantization else ""),
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

    @property
    def answers(self) -> AnswersRecord | None:
        """When it answers, see :meth:`choose_threshold`; None if it was another program then."""
        found = self._answers
        if found is None:
            return None
        now = prediction_settings(self.classifier, self.guide, found.num_samples, found.seed)
        return found if found.hold_for(now) else None

    @property
    def collator(self) -> Collator:
        """Turns examples of the task into the batches of ``model``."""
        _ = self.classifier
        return collator_for(cast(Task, self.task), self.tokenizer, self.scoring)

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

    def _texts(self) -> TextClassificationTask:
        _ = self.classifier
        if not isinstance(self.task, TextClassificationTask):
            raise ValueError("this posterior answers questions with options; use evaluate(task)")
        return self.task

    def _check_kind(self, task: Task) -> None:
        if type(task) is not type(self.task):
            raise ValueError(
                f"{task.name} is of another kind than what this posterior was fitted to; questions "
                "and texts do not mix"
            )

    def _unlabelled(self, texts: Any) -> Dataset:
        self._texts()
        if isinstance(texts, Dataset):
            data = texts.remove_columns([c for c in texts.column_names if c == "label"])
        else:
            data = Dataset.from_dict(texts_by_column(texts))
        self._check_pairs(data)
        return TaskData.in_memory(data).data

    def _check_pairs(self, data: Dataset) -> None:
        pairs, given = self._texts().reads_pairs, "text_pair" in data.column_names
        if pairs and not given:
            raise ValueError(
                f"{self._texts().name} classifies pairs of texts; give a data set or frame with "
                "the columns text and text_pair"
            )
        if given and not pairs:
            raise ValueError(
                f"{self._texts().name} classifies single texts; leave out the column text_pair"
            )

    @contextmanager
    def _examples(
        self,
        data: Any,
        labels: Sequence[str | int] | None = None,
        text_column: str = "text",
        label_column: str = "label",
    ) -> Iterator[Dataset]:
        """Give the examples, for as long as the model answers their questions."""
        if isinstance(data, MultipleChoiceTask | TextClassificationTask):
            self._check_kind(data)
        with answering(self.classifier, data, self.tokenizer):
            yield self._labelled(data, labels, text_column, label_column)

    def _labelled(
        self, data: Any, labels: Sequence[str | int] | None, text_column: str, label_column: str
    ) -> Dataset:
        if isinstance(data, MultipleChoiceTask):
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
            self._check_pairs(given.splits["train"])
            return _numbered_alike(given.splits["train"], given, self._texts())
        return _numbered_alike(data.load("test").data, data, self._texts())

    @contextmanager
    def _unsure_examples(self, task: Task) -> Iterator[Dataset]:
        """Give the split ``test`` of a task that may have other classes."""
        self._check_kind(task)
        data = task.load("test").data
        if isinstance(task, TextClassificationTask):
            known = set(task.class_names) <= set(self._texts().class_names)
            if not known or any(label < 0 for label in data["label"]):
                yield data.remove_columns("label")
                return
        with self._examples(replace(task, splits={"test": data})) as examples:
            yield examples


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
    return with_column(data.remove_columns("label"), "label", labels)
