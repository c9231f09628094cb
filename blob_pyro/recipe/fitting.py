"""A recipe followed: from a base model and a task to a fitted posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide
from blob_pyro.methods import find_method
from blob_pyro.models import Classifier
from blob_pyro.recipe.recipe import Recipe
from blob_pyro.recipe.run import Run
from blob_pyro.tasks import Task
from blob_pyro.training import CheckpointConfig, StepRecord


def fine_tune(
    recipe: Recipe,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
    *,
    validation: Dataset | None = None,
    checkpoints: CheckpointConfig | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
    """Add an adapter to a network, make it Bayesian and fit it to a task.

    Parameters
    ----------
    recipe
        The settings.
    base_model
        Causal LM or network with a classification head, without adapter; changed in place.
    tokenizer
        Its tokenizer.
    task
        Texts with a class, or questions with options.
    data
        The task's training examples.
    validation
        Examples that the fit has not seen, for early stopping and for methods that calibrate
        on them; None takes a fifth of ``data`` where some are needed.
    checkpoints
        See :func:`blob_pyro.training.fit`.  A method that starts from several fits saves each
        in a folder of its own inside.
    accelerator, on_step
        See :func:`blob_pyro.training.fit`.

    Returns
    -------
    model, guide, records
        The fitted program and one record a step, those of the fits that it starts from first.

    Raises
    ------
    ValueError
        If a layer, label or number does not fit, or there are checkpoints and no step that they
        could hold; the message says which.
    FloatingPointError
        If training diverges.

    Warns
    -----
    UserWarning
        If there are checkpoints and the method takes further steps that they do not hold.

    Examples
    --------
    >>> from datasets import DatasetDict
    >>> from tokenizers import Tokenizer, models
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from transformers import PreTrainedTokenizerFast
    >>> from blob_pyro.tasks import TextClassificationTask
    >>> from blob_pyro.training import TrainingConfig
    >>> words = models.WordLevel({"[PAD]": 0, "toner": 1, "password": 2}, unk_token="[PAD]")
    >>> tokenizer = PreTrainedTokenizerFast(
    ...     tokenizer_object=Tokenizer(words), pad_token="[PAD]", model_max_length=8)
    >>> network = BertForSequenceClassification(BertConfig(
    ...     vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=16))
    >>> rows = Dataset.from_dict({"text": ["toner", "password"], "label": [0, 1]})
    >>> task = TextClassificationTask("desk", DatasetDict(train=rows), ("printing", "login"))
    >>> recipe = Recipe(training=TrainingConfig(num_steps=3))
    >>> model, guide, records = fine_tune(recipe, network, tokenizer, task, rows)
    >>> len(records)
    3
    """
    if checkpoints is not None:
        _check_what_is_saved(recipe)
    run = Run(
        base_model,
        tokenizer,
        task,
        data,
        validation,
        checkpoints,
        accelerator or Accelerator(),
        on_step,
    )
    return *run.fit(recipe), run.records


def _check_what_is_saved(recipe: Recipe) -> None:
    if recipe.num_steps == 0:
        raise ValueError(
            f"method {recipe.method!r} has no step that a checkpoint could hold, so no run can "
            "go on from one; leave checkpoints (--save-steps) out"
        )
    for each in (recipe, *recipe.start_recipes()[:1]):
        if find_method(each.method).steps_in_finish:
            warnings.warn(
                f"checkpoints hold the fit that {each.method!r} starts from, not the steps that "
                "it takes after it; a run that is stopped there takes them anew when it is resumed",
                stacklevel=3,
            )
