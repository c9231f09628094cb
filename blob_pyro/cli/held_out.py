"""Which examples a run is fitted to, and which are held out from it."""

from __future__ import annotations

from dataclasses import replace

from datasets import Dataset

from blob_pyro.cli.data import Selection
from blob_pyro.cli.terminal import console
from blob_pyro.recipe import Recipe
from blob_pyro.tasks import Task


def training_and_validation(
    task: Task, selection: Selection, settings: Recipe, fraction: float | None
) -> tuple[Dataset, Dataset | None]:
    """Read the examples to fit to, and those to stop by or to calibrate on.

    Parameters
    ----------
    task
        The task.
    selection
        Which training examples; a validation split is read whole.
    settings
        Says whether validation examples are needed.
    fraction
        Share of the training examples to hold out; None takes the task's validation split if it has
        one, and else leaves the choice to the recipe.

    Returns
    -------
    train, validation
        The latter None where none are needed, or the recipe is to hold some out.

    Raises
    ------
    ValueError
        If the fraction is out of range, leaves too few examples, or nothing needs it.
    """
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"--validation-fraction {fraction} must lie between 0 and 1")
    if fraction is not None and not settings.takes_validation:
        raise ValueError(
            f"--validation-fraction {fraction} holds examples out that the method "
            f"{settings.method!r} would not use; give --validate-every too, or leave it out"
        )
    examples = selection.read(task, "train")
    if not settings.takes_validation:
        return examples, None
    if fraction is None:
        if not task.has_validation(selection.data_dir):
            return examples, None
        return examples, replace(selection, limit=None).read(task, "validation")
    if len(examples) < 2:
        raise ValueError(
            f"{task.name} has {len(examples)} training example, too few to hold some out; give more"
        )
    parts = examples.train_test_split(test_size=fraction, seed=selection.seed)
    console.print(f"{task.name}, validation: {len(parts['test'])} of {len(examples)} rows held out")
    return parts["train"], parts["test"]
