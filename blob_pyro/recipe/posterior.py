"""One object for a fitted posterior: what it predicts, what follows from it, and its folder."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from blob_pyro.diagnostics import to_arviz
from blob_pyro.files import push_to_hub, save_posterior
from blob_pyro.files.config import CONFIG_FILE
from blob_pyro.files.loading import load_with_config
from blob_pyro.files.task import recorded_task, task_record
from blob_pyro.guides import DirichletGuide
from blob_pyro.infer import Generation, generate
from blob_pyro.models import Classifier, OptionLikelihood, SequenceClassifier
from blob_pyro.networks import load_tokenizer
from blob_pyro.networks.identity import tokenizer_identity
from blob_pyro.networks.reading import reading
from blob_pyro.networks.sharding import place
from blob_pyro.posthoc import calibrate, distill
from blob_pyro.recipe.predictor import Predictor
from blob_pyro.tasks import MultipleChoiceTask, Scoring, Task, texts_of
from blob_pyro.tasks.collators import padded
from blob_pyro.tasks.prompt_tokens import prompt_tokens
from blob_pyro.training import TrainingConfig, sharded_predictive
from blob_pyro.training.step_record import TrainingProgress


class Posterior(Predictor):
    """A fitted posterior over a LoRA adapter, with tokenizer and task, ready to predict.

    It follows scikit-learn's conventions for a fitted text classifier, so libraries for such
    classifiers accept it.  ``model`` and ``guide`` are a Pyro program.

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

    def distill(
        self, texts: Any, *, num_samples: int = 10, progress: bool = True, **settings: Any
    ) -> Posterior:
        """Teach the predictions to a plain adapter, which predicts in one pass.

        Parameters
        ----------
        texts
            Those that it was fitted to, and as many more of their kind as you have; as in
            :meth:`predictive`.
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
            If the posterior has no draws, or its network is divided among processes.
        """
        _ = self.classifier
        if self.model.is_sharded:
            raise ValueError(
                "the student needs a copy of the network, which is divided among processes; "
                "distill without FSDP, or fit by the method 'distilled'"
            )
        if isinstance(texts, MultipleChoiceTask):
            self._check_kind(texts)
            data = texts.load("train").data
        else:
            data = self._unlabelled(texts)
        with self.model.use.running():
            teacher = copy.deepcopy((self.classifier, self.guide))
        processes = PartialState().num_processes
        config = TrainingConfig(**settings).for_data(len(data), processes)
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
        with self._examples(data, labels, text_column, label_column) as examples:
            loader = self.collator.loader(examples)
            before = self.answers
            found = float(calibrate(self.classifier, self.guide, loader, num_samples, seed))
        if before is not None and self.answers is None:
            warnings.warn(
                f"the threshold {before.threshold:.4f} was chosen at another temperature and is "
                "dropped; call choose_threshold again",
                stacklevel=2,
            )
        return found

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
        with self._examples(data, labels, text_column, label_column) as examples:
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
        device = next(self.model.parameters()).device
        input_ids, mask = (tensor.to(device) for tensor in batch)
        return generate(self.model, self.guide, input_ids, mask, num_samples, seed, **options)

    def save(self, folder: str | Path) -> None:
        """Write a folder that :func:`~blob_pyro.recipe.load` reads, and that PEFT reads too.

        It replaces a posterior that is there, as PEFT's ``save_pretrained`` does.
        """
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

    def _check_draws(self) -> None:
        if isinstance(self.guide, DirichletGuide):
            raise ValueError(
                "a distilled posterior has no draws; take the posterior that it was distilled from"
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
        On the GPU if there is one, and divided among several processes if accelerate was told so.

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
                f"{folder} does not say what its classes are; save it by "
                "Posterior(model, guide, tokenizer, task, scoring).save(folder)"
            )
        with reading(folder / CONFIG_FILE):
            task, scoring = recorded_task(record)
        _check_answers(folder, model, task, scoring)
    if base_model is None:
        place(model, accelerator := Accelerator())
        guide.to(accelerator.device)
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


def _check_answers(folder: Path, model: Classifier, task: Task, scoring: Scoring) -> None:
    """Refuse a record that would have the model answer what it was not fitted to."""
    options = isinstance(task, MultipleChoiceTask) and scoring == "options"
    head = isinstance(model, SequenceClassifier)
    if head != (scoring == "head") or isinstance(model, OptionLikelihood) != options:
        raise ValueError(
            f"{folder / CONFIG_FILE}: its task {task.name}, answered by {scoring!r}, is not that "
            f"of its {type(model).__name__}; restore the folder from a copy"
        )
