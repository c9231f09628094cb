"""The questions of a benchmark: to fit, to calibrate on, and to test."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from blob_pyro.tasks import MultipleChoiceTask


def training_data(
    task: MultipleChoiceTask,
    limit: int | None,
    seed: int,
    data_dir: Path | None,
    needs_held_out: bool,
) -> tuple[Dataset, Dataset | None]:
    """Read the questions that a cell is fitted to, and others of the training split.

    Parameters
    ----------
    task
        The task.
    limit
        Number of training questions; None for all.
    seed
        Chooses them.
    data_dir
        See :meth:`blob_pyro.tasks.MultipleChoiceTask.load`.
    needs_held_out
        Whether questions are wanted on which a fit may be calibrated.

    Returns
    -------
    train, held_out
        ``held_out`` is as large as ``train`` at most; None if none are wanted.

    Raises
    ------
    ValueError
        If training takes all questions of the split, and none are left.
    """
    train = task.load("train", data_dir=data_dir, limit=limit, seed=seed).data
    if not needs_held_out:
        return train, None
    # Never the validation split, which is the test split of the tasks whose answers are not public.
    taken, split = set(train["id"]), task.load("train", data_dir=data_dir).data
    rest = split.select([i for i, name in enumerate(split["id"]) if name not in taken])
    if len(rest) == 0:
        raise ValueError(
            f"{task.name}: all {len(train)} training questions are trained on, so none are left to "
            "calibrate on; give the task fewer (train: NUMBER)"
        )
    return train, rest.shuffle(seed=seed).select(range(min(len(rest), len(train))))


def test_data(task: MultipleChoiceTask, limit: int | None, data_dir: Path | None) -> Dataset:
    """Read test questions, the same for every seed."""
    data = task.load("test", data_dir=data_dir, limit=limit).data
    # Shortest first, so that little goes into padding.
    order = sorted(range(len(data)), key=lambda index: len(data[index]["prompt"]))
    return data.select(order)
