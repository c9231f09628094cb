"""The posterior predictive of a data set, its examples shared out among processes."""

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
    state = PartialState()
    mine = LongestFirst.by_tokens(data, collator).order[state.process_index :: state.num_processes]
    parts = []
    if mine:
        loader = DataLoader(data.select(mine), batch_size=batch_size, collate_fn=collator)
        shown = progress and state.is_main_process
        predictive = posterior_predictive(model, guide, loader, num_samples, seed, progress=shown)
        parts = [(mine, predictive)]
    gathered = gather_object(parts)
    place = torch.tensor([index for indices, _ in gathered for index in indices]).argsort()
    together = {}
    for name in gathered[0][1]:
        example_dim = 0 if name == "labels" else 1
        values = torch.cat([part[name] for _, part in gathered], dim=example_dim)
        together[name] = values.index_select(example_dim, place)
    return together
