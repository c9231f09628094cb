"""The examples that a cell of a benchmark is fitted to, held out from its fit, and tested on."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from blob_pyro.benchmark.config import BenchmarkConfig, TaskConfig
from blob_pyro.tasks import Task


def training_data(task: Task, config: TaskConfig, data_dir: Path | None, seed: int) -> Dataset:
    """Read the examples that a method without validation is fitted to.

    They are those of the methods with validation: what is kept for it is nowhere trained on, since
    a temperature is fitted to it on top of a fit that knew nothing of it.
    """
    divided = config.max_train is None and config.max_validation is not None
    if divided and not task.has_validation(data_dir):
        return training_and_validation_data(task, config, data_dir, seed)[0]
    return task.load("train", data_dir=data_dir, limit=config.max_train, seed=seed).data


def training_and_validation_data(
    task: Task, config: TaskConfig, data_dir: Path | None, seed: int
) -> tuple[Dataset, Dataset]:
    """Read the examples that a method is fitted to, and others to stop it by or to calibrate on.

    The latter are the task's validation split, unless it is the one that is tested on or is not
    there; then they are training examples that come after those that are trained on.

    Raises
    ------
    ValueError
        If there are too few examples, or it is not said how many of the training examples are for
        validation.
    """
    if task.has_validation(data_dir):
        limit = config.max_validation
        validation = task.load("validation", data_dir=data_dir, limit=limit, seed=seed)
        return training_data(task, config, data_dir, seed), validation.data
    if config.max_validation is None:
        raise ValueError(
            f"{task.name} has no validation examples beside those of the test; say with "
            "'max_validation: 100' how many training examples to keep for it"
        )
    # In the order of task.load, so that all methods are fitted to the same examples.
    examples = task.load("train", data_dir=data_dir).data.shuffle(seed=seed)
    num_train = config.max_train or len(examples) - config.max_validation
    wanted = num_train + config.max_validation
    if num_train < 1 or wanted > len(examples):
        raise ValueError(
            f"{task.name} has {len(examples)} training examples, too few for "
            f"{config.max_validation} to stop by and {config.max_train or 'some'} others to fit"
        )
    return examples.select(range(num_train)), examples.select(range(num_train, wanted))


def evaluation_data(
    task: Task, config: BenchmarkConfig, trained_on: TaskConfig, data_dir: Path | None, seed: int
) -> Dataset:
    """Read the examples that a cell is evaluated on.

    Test examples are the same for every seed; validation examples are those that no cell of this
    seed was fitted to.
    """
    if config.split == "validation":
        return training_and_validation_data(task, trained_on, data_dir, seed)[1]
    test = task.load("test", data_dir=data_dir)
    limit = config.max_test
    # Of one limit for all tasks, a small one has what it has.
    kept = None if limit is None else min(limit, len(test.data))
    return test.sample(kept, seed=0, what=f"{task.name}, test").data
