"""What ``blob-pyro evaluate`` measures a posterior on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from datasets import Dataset, DatasetDict

from blob_pyro.cli.data import Selection, check_one_source, texts_task
from blob_pyro.recipe.posterior import numbered_alike
from blob_pyro.tasks import MultipleChoiceTask, Task, TextClassificationTask, find_task


@dataclass(frozen=True)
class Asked:
    """What the user asked to measure on.

    Parameters
    ----------
    data, text_column, label_column
        A file of the user's own texts, or None.
    task
        Name of a task, or None.
    ood
        Names of tasks that are out of distribution.
    """

    data: Path | None
    text_column: str
    label_column: str
    task: str | None
    ood: Sequence[str]


def evaluated_sets(
    folder: Path, trained: Task, asked: Asked, selection: Selection
) -> list[tuple[Task, Dataset]]:
    """Read the data sets to measure on, the one in distribution first.

    Texts out of distribution keep their labels where the posterior knows all their classes; else
    they lose them, and only their uncertainty can be measured.

    Parameters
    ----------
    folder
        The posterior's.
    trained
        What it was fitted to.
    asked
        The user's options.
    selection
        Which examples of each.

    Returns
    -------
    list of (task, examples)
        No two of one name.

    Raises
    ------
    ValueError
        If the options exclude each other or do not fit the posterior, or examples are lacking.
    """
    check_one_source(asked.task, asked.data)
    others = [_fitting(folder, trained, name) for name in asked.ood]
    first = _first(folder, trained, asked, selection)
    tasks = [first, *others]
    _check_names([task.name for task in tasks])
    if selection.data_dir is not None and all(task.source is None for task in tasks):
        raise ValueError(
            f"--data-dir holds the rows of --task or --ood, but those of {first.name} are "
            "elsewhere; leave it out"
        )
    sets = [(task, selection.read(task, "test")) for task in tasks]
    if not isinstance(trained, TextClassificationTask):
        return sets
    # All of its kind, see _fitting.
    return [
        (task, _labelled(cast(TextClassificationTask, task), data, trained, task is first))
        for task, data in sets
    ]


def _first(folder: Path, trained: Task, asked: Asked, selection: Selection) -> Task:
    if asked.task is not None:
        return _fitting(folder, trained, asked.task)
    if isinstance(trained, MultipleChoiceTask):
        if asked.data is not None:
            raise ValueError(
                f"{folder} answers questions, so --data, which holds texts, does not fit; "
                "use --task and --data-dir"
            )
        return trained
    if asked.data is None and trained.source is not None:
        return trained
    if asked.data is None:
        if trained.name in ("helpdesk", "reviews"):
            return _fitting(folder, trained, trained.name)
        raise ValueError(
            f"{folder} was fitted to {trained.name}, whose texts it does not hold; give texts with "
            "--data, or name a --task"
        )
    texts = texts_task(
        asked.data,
        asked.text_column,
        asked.label_column,
        0,
        0,
        selection.skip_bad_rows,
        trained.class_names,
    )
    # A table that nothing is held out from is one of training examples; these are all to test on.
    return replace(texts, splits=DatasetDict(test=texts.splits["train"]))


def _fitting(folder: Path, trained: Task, name: str) -> Task:
    task = find_task(name)
    if type(task) is not type(trained):
        kinds = ("classifies texts", "questions")
        if isinstance(trained, MultipleChoiceTask):
            kinds = ("answers questions", "texts")
        raise ValueError(
            f"{folder} {kinds[0]} ({trained.name}), so {name}, which has {kinds[1]}, does not fit; "
            "name another task"
        )
    return task


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is to be measured twice; leave one out")


def _labelled(
    task: TextClassificationTask,
    data: Dataset,
    trained: TextClassificationTask,
    in_distribution: bool,
) -> Dataset:
    if in_distribution and min(data["label"]) < 0:
        raise ValueError(
            f"{task.name} has no labels, so nothing can be measured; name it with --ood"
        )
    known = set(task.class_names) <= set(trained.class_names) and min(data["label"]) >= 0
    if known or in_distribution:
        return numbered_alike(data, task, trained)
    return data.remove_columns("label")
