"""The last stage of a method that is made from fits: from their programs to what predicts."""

from __future__ import annotations

from collections.abc import Iterable

import pyro
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from blob_pyro.methods import Program, find_method
from blob_pyro.recipe.recipe import Recipe
from blob_pyro.tasks import Task, collator_for


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
        As in :func:`blob_pyro.recipe.fine_tune`.
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
    programs = map(on_device, starts)
    if method.combine is not None:
        return method.combine(programs)
    if method.finish is None:
        raise ValueError(f"method {recipe.method!r} has nothing to finish; call fine_tune")
    model, guide = next(programs)
    scoring = recipe.scoring_of(model.network.get_base_model())
    return method.finish(model, guide, data, collator_for(task, tokenizer, scoring), recipe)


def on_device(program: Program) -> Program:
    """Move a program to where accelerate computes."""
    model, guide = program
    device = Accelerator().device
    return model.to(device), guide.to(device)
