"""The posterior predictive of a data set, its examples shared out among processes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.tasks import LongestFirst
from blob_pyro.training.batches import Collator

Part = TypeVar("Part")


def in_shares(
    num_examples: int, compute: Callable[[Sequence[int]], Part], *, in_step: bool = False
) -> tuple[list[Part], torch.Tensor]:
    """Compute something of N examples, each process its share, and give all of it to every process.

    Parameters
    ----------
    num_examples
        N, the same in every process.
    compute
        From the indices of a share to what pickle can send to the other processes.
    in_step
        Give all processes shares of one size, some examples twice if need be: of a network that is
        divided among them, all have to make as many passes.

    Returns
    -------
    parts, rows
        What each share became; in which row of all shares, one after the other, each example
        stands (``N``, int64).

    Raises
    ------
    ValueError
        If the processes were given different numbers of examples.
    """
    state = PartialState()
    end = -(-num_examples // state.num_processes) * state.num_processes if in_step else num_examples
    mine = [i % num_examples for i in range(state.process_index, end, state.num_processes)]
    gathered = gather_object([(mine, compute(mine))] if mine else [])
    rows = {index: row for row, index in enumerate(i for share, _ in gathered for i in share)}
    if rows.keys() != {*range(num_examples)}:
        raise ValueError(
            f"{len(rows)} examples came together from {state.num_processes} processes, but this "
            f"one was given {num_examples}; give all of them the same data"
        )
    return [part for _, part in gathered], torch.tensor([rows[i] for i in range(num_examples)])


def sharded_predictive(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    num_samples: int = 10,
    seed: int = 0,
    *,
    batch_size: int = 16,
    progress: bool = False,
) -> dict[str, torch.Tensor]:
    """Predict a data set, each process its share, and give all of it to every process.

    Parameters
    ----------
    model, guide
        The fitted program, the same in every process.
    data
        Examples for the collator.
    collator
        As in :func:`blob_pyro.training.fit`.
    num_samples, seed
        As in :func:`blob_pyro.infer.posterior_predictive`: the seed makes the draws the same in
        every process.
    batch_size
        Examples a forward pass; those of about one length share one.
    progress
        Show a progress bar, in one of the processes.

    Returns
    -------
    dict
        As of :func:`blob_pyro.infer.posterior_predictive`: every example once, in the data's order,
        on the CPU.

    Raises
    ------
    ValueError
        If there are no data.
    """
    if len(data) == 0:
        raise ValueError("the data are empty; there is nothing to predict")

    def predict(mine: Sequence[int]) -> dict[str, torch.Tensor]:
        share = data.select(mine)
        longest_first = LongestFirst.by_tokens(share, collator)
        loader = DataLoader(
            share, batch_size=batch_size, sampler=longest_first, collate_fn=collator
        )
        shown = progress and PartialState().is_main_process
        return posterior_predictive(model, guide, loader, num_samples, seed, progress=shown)

    parts, rows = in_shares(len(data), predict, in_step=model.is_sharded)
    together = {}
    for name in parts[0]:
        example_dim = 0 if name == "labels" else 1
        values = torch.cat([part[name] for part in parts], dim=example_dim)
        together[name] = values.index_select(example_dim, rows)
    return together
