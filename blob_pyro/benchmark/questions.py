"""The questions that a cell of a benchmark is fitted to, stopped by and tested on."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from blob_pyro.benchmark.config import TaskConfig
from blob_pyro.tasks import MultipleChoiceTask


def training_questions(
    task: MultipleChoiceTask, config: TaskConfig, data_dir: Path | None, seed: int
) -> Dataset:
    """Read the questions that a method without validation is fitted to."""
    return task.load("train", data_dir=data_dir, limit=config.train, seed=seed).data


def training_and_validation_questions(
    task: MultipleChoiceTask, config: TaskConfig, data_dir: Path | None, seed: int
) -> tuple[Dataset, Dataset]:
    """Read the questions that a method is fitted to, and others to stop it by.

    The latter are the task's validation split, unless it is the one that is tested on or is not
    there; then they are training questions that come after those that are trained on.

    Raises
    ------
    ValueError
        If there are too few questions, or it is not said how many of the training questions are
        for validation.
    """
    own = task.splits.get("validation") not in (None, task.splits["test"])
    if own and task.has("validation", data_dir):
        validation = task.load("validation", data_dir=data_dir, limit=config.validation, seed=seed)
        return training_questions(task, config, data_dir, seed), validation.data
    if config.validation is None:
        raise ValueError(
            f"{task.name} has no validation questions beside those of the test; say with "
            "'validation: 100' how many training questions to keep for it"
        )
    # In the order of MultipleChoiceTask.load, so that all methods are fitted to the same questions.
    questions = task.load("train", data_dir=data_dir).data.shuffle(seed=seed)
    num_train = config.train or len(questions) - config.validation
    wanted = num_train + config.validation
    if num_train < 1 or wanted > len(questions):
        raise ValueError(
            f"{task.name} has {len(questions)} training questions, too few for "
            f"{config.validation} to stop by and {config.train or 'some'} others to train on"
        )
    return questions.select(range(num_train)), questions.select(range(num_train, wanted))


def test_questions(task: MultipleChoiceTask, limit: int | None, data_dir: Path | None) -> Dataset:
    """Read the same questions for every seed, shortest first so that little goes into padding."""
    data = task.load("test", data_dir=data_dir, limit=limit).data
    order = sorted(range(len(data)), key=lambda index: len(data[index]["prompt"]))
    return data.select(order)
