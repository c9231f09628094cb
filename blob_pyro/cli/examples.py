"""From the options of a command to a task that holds its examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blob_pyro.cli.terminal import say
from blob_pyro.tasks import Task, find_task, helpdesk, read_table


@dataclass(frozen=True)
class Selection:
    """Which examples of a task to read, see its ``load``."""

    data_dir: Path | None
    limit: int | None
    seed: int
    skip_bad_rows: bool

    def held_by(self, task: Task, split: str) -> Task:
        """Read examples, say on the terminal how many, and give the task that holds them."""
        examples = task.load(
            split,
            data_dir=self.data_dir,
            limit=self.limit,
            seed=self.seed,
            skip_bad_rows=self.skip_bad_rows,
        )
        say(f"{task.name}, {split}: {examples}" + (f" (seed {self.seed})" if self.limit else ""))
        return replace(task, splits={**task.splits, split: examples.data})


@dataclass(frozen=True)
class Source:
    """Where a user's labelled examples are: the name of a task, or a file of texts."""

    task: str | None
    data: Path | None
    text_column: str
    label_column: str

    def __post_init__(self) -> None:
        if self.task is not None and self.data is not None:
            raise ValueError("--task and --data exclude each other; give one of them")

    def find(
        self, test_fraction: float, selection: Selection, class_names: Sequence[str] | None = None
    ) -> Task:
        """Give the task, the built-in help desk if none is named; a file is read and divided."""
        if self.task is not None:
            return find_task(self.task)
        if self.data is None:
            return helpdesk()
        texts = read_table(
            self.data,
            self.text_column,
            self.label_column,
            test_fraction=test_fraction,
            seed=selection.seed,
            skip_bad_rows=selection.skip_bad_rows,
            class_names=class_names,
        )
        if texts.num_bad:
            say(f"{self.data}: {texts.num_bad} bad rows skipped")
        return texts
