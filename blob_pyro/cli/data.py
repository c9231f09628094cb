"""From the options of a command to a task and its examples."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from blob_pyro.base_model import load_tokenizer
from blob_pyro.checkpoint import load_posterior, posterior_task
from blob_pyro.cli.terminal import console
from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.tasks import (
    MultipleChoiceTask,
    OptionCollator,
    PromptCollator,
    Task,
    TextClassificationTask,
    collator_for,
    find_task,
    helpdesk,
    table,
)


def texts_task(
    data: Path | None, text_column: str, label_column: str, test_fraction: float, seed: int
) -> TextClassificationTask:
    """Read a user's own texts, or the help desk's."""
    if data is None:
        return helpdesk()
    return table(data, text_column, label_column, test_fraction=test_fraction, seed=seed)


def questions(
    task: MultipleChoiceTask,
    split: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int,
    skip_bad_rows: bool,
) -> Dataset:
    """Read questions, and say on the terminal how many."""
    read = task.load(split, data_dir=data_dir, limit=limit, seed=seed, skip_bad_rows=skip_bad_rows)
    subset = "" if limit is None else f" (seed {seed})"
    console.print(f"{task.name}, {split}: {read}{subset}", markup=False)
    return read.data


def labelled_texts(
    task: TextClassificationTask, data: Path | None, text_column: str, label_column: str
) -> Dataset:
    """Read texts whose labels a posterior knows, numbered as it numbers them."""
    given = texts_task(data, text_column, label_column, test_fraction=0, seed=0)
    unknown = sorted(set(given.class_names) - set(task.class_names))
    if unknown:
        raise ValueError(
            f"the data have the labels {unknown}, which the posterior does not know; it knows "
            f"{list(task.class_names)}"
        )
    index = {i: task.class_names.index(name) for i, name in enumerate(given.class_names)}
    texts = given.splits["test" if data is None else "train"]
    return Dataset.from_dict(
        {"text": texts["text"], "label": [index[label] for label in texts["label"]]}
    )


def load(folder: Path) -> tuple[Classifier, LoraGuide, Task, PromptCollator | OptionCollator]:
    """Load a posterior onto accelerate's device, with the task that it was fitted to."""
    record = posterior_task(folder)
    if not record:
        raise ValueError(
            f"{folder} does not say what its classes are; use save_posterior(..., task=...)"
        )
    model, guide = load_posterior(folder)
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{folder} holds a {type(model).__name__}, which classifies nothing; use "
            "blob_pyro.generate"
        )
    device = Accelerator().device
    model.to(device)
    guide.to(device)
    base_model = model.network.peft_config[model.adapter].base_model_name_or_path
    task: Task
    if record["kind"] == "questions":
        task = find_task(record["name"])
    else:
        names = tuple(record["class_names"])
        task = TextClassificationTask(record["name"], DatasetDict(), names, record["prompt"])
    return model, guide, task, collator_for(task, load_tokenizer(str(base_model)))
