"""A recipe followed: from a base model and a task to a fitted posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyro
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide
from blob_pyro.likelihood import lora_config, make_likelihood
from blob_pyro.methods import Program, find_method
from blob_pyro.models import Classifier
from blob_pyro.recipe.recipe import Recipe
from blob_pyro.tasks import Task, collator_for
from blob_pyro.training import CheckpointConfig, StepRecord, fit

_HELD_OUT = 0.2


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
    method = find_method(recipe.method)
    if checkpoints is not None:
        _check_what_is_saved(recipe)
    if recipe.takes_validation and validation is None:
        parts = data.train_test_split(test_size=_HELD_OUT, seed=recipe.training.seed)
        data, validation = parts["train"], parts["test"]
    last = validation if method.held_out and validation is not None else data
    records: list[StepRecord] = []
    how: dict[str, Any] = {
        "checkpoints": checkpoints,
        "accelerator": accelerator,
        "on_step": on_step,
    }
    examples = (base_model, tokenizer, task, data, validation, records)
    if method.starts_from is None:
        program = _train(recipe, *examples, **how)
        if method.finish is not None:
            program = finish(recipe, [program], tokenizer, task, last)
    else:
        program = finish(recipe, _fit_starts(recipe, *examples, **how), tokenizer, task, last)
    return *program, records


def finish(
    recipe: Recipe,
    starts: Iterable[Program],
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
) -> Program:
    """Make a method's posterior from fitted programs, without the fits.

    Parameters
    ----------
    recipe
        The settings.
    starts
        The programs of :meth:`Recipe.start_recipes`, one by one; they are changed in place.
    tokenizer, task
        As in :func:`fine_tune`.
    data
        Training examples, or held-out ones if the method takes those.

    Returns
    -------
    model, guide
        The program that predicts.

    Raises
    ------
    ValueError
        If the method is done when it is trained.
    """
    method = find_method(recipe.method)
    pyro.set_rng_seed(recipe.training.seed)
    on_device = map(_on_device, starts)
    if method.combine is not None:
        return method.combine(on_device)
    if method.finish is None:
        raise ValueError(f"method {recipe.method!r} has nothing to finish; call fine_tune")
    model, guide = next(on_device)
    scoring = recipe.scoring_of(model.network.get_base_model())
    return method.finish(model, guide, data, collator_for(task, tokenizer, scoring), recipe)


def _check_what_is_saved(recipe: Recipe) -> None:
    if recipe.num_steps == 0:
        raise ValueError(
            f"method {recipe.method!r} has no step that a checkpoint could hold, so no run can "
            "go on from one; leave checkpoints (--save-steps) out"
        )
    if find_method(recipe.method).steps_in_finish:
        warnings.warn(
            f"checkpoints hold the fit that {recipe.method!r} starts from, not the steps that it "
            "takes after it; a run that is stopped there takes them anew when it is resumed",
            stacklevel=3,
        )


def _fit_starts(
    recipe: Recipe,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
    validation: Dataset | None,
    records: list[StepRecord],
    checkpoints: CheckpointConfig | None,
    **how: Any,
) -> Iterator[Program]:
    """Fit the programs to start from, one after the other in the same network."""
    net: PeftModel | None = None
    for number, start in enumerate(recipe.start_recipes()):
        model, guide, steps = fine_tune(
            start,
            base_model if net is None else net.unload(),
            tokenizer,
            task,
            data,
            validation=validation,
            checkpoints=checkpoints and checkpoints.of_member(number),
            **how,
        )
        records += steps
        yield model, guide
        net = model.network


def _train(
    recipe: Recipe,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
    validation: Dataset | None,
    records: list[StepRecord],
    accelerator: Accelerator | None,
    **how: Any,
) -> Program:
    method = find_method(recipe.method)
    # Adapter, guide, noise and batches all follow from the one seed.
    accelerator = accelerator or Accelerator()
    pyro.set_rng_seed(recipe.training.seed)
    dropout = method.dropout if recipe.dropout is None else recipe.dropout
    config = lora_config(base_model, recipe.rank, recipe.alpha, recipe.target_modules, dropout)
    scoring = recipe.scoring_of(base_model)
    net = get_peft_model(base_model, config)
    model = make_likelihood(
        net, tokenizer, task, scoring, len(data), recipe.prior_scale, method.latent
    )
    model.set_temperature(recipe.temperature)
    guide = method.guide(model, recipe)
    if method.objective == "none":
        return _on_device((model, guide))
    examples_per_step = recipe.training.examples_per_step(accelerator.num_processes)
    records += fit(
        model,
        guide,
        recipe.elbo(len(data), method.objective, examples_per_step),
        data,
        collator_for(task, tokenizer, scoring),
        replace(recipe.training, flipout=recipe.training.flipout and method.flipout),
        validation=None if recipe.training.validate_every is None else validation,
        accelerator=accelerator,
        **how,
    )
    return model, guide


def _on_device(program: Program) -> Program:
    model, guide = program
    device = Accelerator().device
    return model.to(device), guide.to(device)
