"""From the options of a command to a task and its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from blob_pyro.cli.terminal import console
from blob_pyro.recipe import Recipe
from blob_pyro.tasks import (
    Task,
    TextClassificationTask,
    helpdesk,
    read_table,
)


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
    if fraction is not None and not settings.needs_validation:
        raise ValueError(
            f"--validation-fraction {fraction} holds examples out that the method "
            f"{settings.method!r} would not use; set validate_every too, or leave it out"
        )
    examples = selection.read(task, "train")
    if not settings.needs_validation:
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


@dataclass(frozen=True)
class Selection:
    """Which examples of a task to read, see its ``load``."""

    data_dir: Path | None
    limit: int | None
    seed: int
    skip_bad_rows: bool

    def read(self, task: Task, split: str) -> Dataset:
        """Read examples, and say on the terminal how many."""
        examples = task.load(
            split,
            data_dir=self.data_dir,
            limit=self.limit,
            seed=self.seed,
            skip_bad_rows=self.skip_bad_rows,
        )
        subset = "" if self.limit is None else f" (seed {self.seed})"
        console.print(f"{task.name}, {split}: {examples}{subset}", markup=False)
        return examples.data


def texts_task(
    data: Path | None,
    text_column: str,
    label_column: str,
    test_fraction: float,
    seed: int,
    skip_bad_rows: bool,
    class_names: Sequence[str] | None = None,
) -> TextClassificationTask:
    """Read a user's own texts, or the help desk's."""
    if data is None:
        return helpdesk()
    task = read_table(
        data,
        text_column,
        label_column,
        test_fraction=test_fraction,
        seed=seed,
        skip_bad_rows=skip_bad_rows,
        class_names=class_names,
    )
    if task.num_bad:
        console.print(f"{data}: {task.num_bad} bad rows skipped", markup=False)
    return task


def check_one_source(task: str | None, data: Path | None) -> None:
    """Refuse two places to read examples from."""
    if task is not None and data is not None:
        raise ValueError("--task and --data exclude each other; give one of them")
