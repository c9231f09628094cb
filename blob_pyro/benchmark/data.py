"""The examples that a cell of a benchmark is fitted to, held out from its fit, and tested on."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from blob_pyro.benchmark.config import BenchmarkConfig, TableConfig, TaskConfig
from blob_pyro.tasks import Task, TextClassificationTask, find_task
from blob_pyro.tasks.task_data import read_examples
from blob_pyro.tasks.text_files import json_lines


def benchmark_task(
    name: str, config: BenchmarkConfig, data_dir: Path | None, seed: int = 0
) -> Task:
    """Find a task of a benchmark by its name: a table of its own, or one that the library knows.

    Of one that is trained on, with ``num_classes``, the seed chooses the classes.
    """
    if name not in config.tables:
        task = find_task(name)
    elif data_dir is None:
        raise ValueError(f"{name} is a table in a folder; give the folder as --data-dir")
    else:
        task = _table_task(name, config.tables[name], data_dir)
    number = config.tasks[name].num_classes if name in config.tasks else None
    if number is None or not isinstance(task, TextClassificationTask):
        return task
    return _of_some_classes(task, number, data_dir, seed)


def _table_task(name: str, table: TableConfig, data_dir: Path) -> TextClassificationTask:
    folder = data_dir / (table.folder or name)
    rows = {
        "train": [*_rows(folder / "train.jsonl")],
        "test": [*_rows(folder / f"{table.test}.jsonl")],
    }
    if table.classes is None:
        labels = sorted({row["label"] for _, row in rows["train"] if row["label"] is not None})
        classes: dict[str, tuple[str, ...]] = {label: (label,) for label in labels}
    else:
        classes = dict(table.classes)
    numbers = {label: number for number, ls in enumerate(classes.values()) for label in ls}

    def example(row: dict[str, Any]) -> dict[str, Any] | None:
        label = row["label"]
        if label not in numbers and label is not None:
            if table.classes is None:
                raise ValueError(f"has the label {label!r}, which no training text has")
            return None
        return {"id": row["id"], "text": row["text"], "label": numbers.get(label, -1)}

    splits = {}
    for split, lines in rows.items():
        examples, _ = read_examples(lines, example, skip_bad_rows=False)
        splits[split] = Dataset.from_list([row for row in examples if row is not None])
    return TextClassificationTask(name, splits, tuple(classes))


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not file.is_file():
        raise ValueError(f"{file}: is not there; give the folder of the tables as --data-dir")
    for line, row in json_lines(file):
        place = f"{file}, line {line}"
        if not isinstance(row.get("text"), str) or not isinstance(row.get("label", 0), str | None):
            raise ValueError(
                f"{place}: the text or the label is not a text; correct the row (null is the "
                "label of a stranger)"
            )
        yield place, {"id": str(row.get("id", line)), "text": row["text"], "label": row["label"]}


def _of_some_classes(
    task: TextClassificationTask, number: int, data_dir: Path | None, seed: int
) -> TextClassificationTask:
    if number > len(task.class_names):
        raise ValueError(f"{task.name} has {len(task.class_names)} classes, fewer than {number}")
    chosen = sorted(random.Random(seed).sample(range(len(task.class_names)), number))
    numbers = {old: new for new, old in enumerate(chosen)}
    splits = {}
    for split in ("train", "test"):
        data = task.load(split, data_dir=data_dir).data
        kept = [row for row in data.to_list() if row["label"] in numbers]
        splits[split] = Dataset.from_list([{**row, "label": numbers[row["label"]]} for row in kept])
    return replace(task, splits=splits, class_names=tuple(task.class_names[n] for n in chosen))


def _as_many_of_each(data: Dataset, number: int, each: int, name: str, seed: int) -> Dataset:
    """Take the first examples of each class, in the order of the seed."""
    labels, chosen = data["label"], []
    order = random.Random(seed).sample(range(len(data)), len(data))
    for label in range(number):
        rows = [row for row in order if labels[row] == label][:each]
        if len(rows) < each:
            raise ValueError(f"{name} has {len(rows)} training examples of a class, not {each}")
        chosen += rows
    return data.select(random.Random(seed).sample(chosen, len(chosen)))


def training_data(task: Task, config: TaskConfig, data_dir: Path | None, seed: int) -> Dataset:
    """Read the examples that a method without validation is fitted to.

    They are those of the methods with validation: what is kept for it is nowhere trained on, since
    a temperature is fitted to it on top of a fit that knew nothing of it.
    """
    if config.num_classes is not None and config.max_train is not None:
        each = config.max_train // config.num_classes
        data = task.load("train", data_dir=data_dir).data
        return _as_many_of_each(data, config.num_classes, each, task.name, seed)
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
            f"{task.name} has no validation examples that the test does not use; give "
            "'max_validation: 100', or another number of training examples to hold out"
        )
    # In the order of task.load, so that all methods are fitted to the same examples.
    examples = task.load("train", data_dir=data_dir).data.shuffle(seed=seed)
    num_train = config.max_train or len(examples) - config.max_validation
    wanted = num_train + config.max_validation
    if num_train < 1 or wanted > len(examples):
        raise ValueError(
            f"{task.name} has {len(examples)} training examples, too few to hold out "
            f"{config.max_validation} and to train on {config.max_train or 'some'} others"
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
