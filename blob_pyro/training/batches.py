"""Which examples make up each gradient step: an endless shuffled order, the same everywhere."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from datasets import Dataset
from torch.utils.data import BatchSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from blob_pyro.models.batches import Batch
from blob_pyro.tasks import lengths
from blob_pyro.training.config import TrainingConfig

Collator = Callable[[list[dict[str, Any]]], Batch]


def step_indices(
    sizes: Sequence[int], batch_size: int, num_batches: int, seed: int
) -> Iterator[list[list[int]]]:
    """List the examples of every gradient step, without end.

    Each epoch is shuffled anew and every example comes once in it.  Examples of about one length
    share a batch, so that little time goes into padding.

    Parameters
    ----------
    sizes
        Length of each example, in any unit.
    batch_size
        Examples of a micro-batch; the last one of an epoch may have fewer.
    num_batches
        Micro-batches of a gradient step, over all processes and accumulation steps.
    seed
        Seed of the order.

    Yields
    ------
    list of list of int
        ``num_batches`` lists of indices.

    Examples
    --------
    >>> steps = step_indices([1, 2, 3, 4], batch_size=2, num_batches=1, seed=0)
    >>> sorted(index for step in islice(steps, 2) for batch in step for index in batch)
    [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = LengthGroupedSampler(batch_size, lengths=[*sizes], generator=generator)
    # Asked for its batches again, a sampler shuffles anew.
    epochs = repeat(BatchSampler(sampler, batch_size, drop_last=False))
    batches = chain.from_iterable(epochs)
    while True:
        yield list(islice(batches, num_batches))


def process_batches(
    data: Dataset, collator: Collator, config: TrainingConfig, accelerator: Accelerator, start: int
) -> Iterator[list[tuple[Batch, float]]]:
    """Give this process's micro-batches of every step from ``start`` to ``config.total_steps``.

    Parameters
    ----------
    data, collator, config
        As in :func:`blob_pyro.training.fit`.
    accelerator
        Says which process this is, of how many, and its device.
    start
        The first step, from 0.

    Yields
    ------
    list
        Batches, and of each its share of the step's examples times the number of micro-batches: so
        weighted, in a mean of gradients over those, each example counts alike.
    """
    processes, device = accelerator.num_processes, accelerator.device
    num_batches = processes * config.accumulation_steps
    order = step_indices(lengths(data), config.batch_size, num_batches, config.seed)
    for step in islice(order, start, config.total_steps):
        mean = sum(map(len, step)) / num_batches
        mine = step[accelerator.process_index :: processes]
        batches = [collator([data[index] for index in indices]) for indices in mine]
        weights = [len(indices) / mean for indices in mine]
        yield [*zip(send_to_device(batches, device), weights, strict=True)]
