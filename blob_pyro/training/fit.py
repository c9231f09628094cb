"""The training loop: any guide, on whatever device accelerate finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout
from blob_pyro.tasks import lengths
from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.denormals import flush_denormals
from blob_pyro.training.step_record import StepRecord, record_of
from blob_pyro.training.steps import Batch, DecoupledSteps, JointSteps, Steps

Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


def fit(
    model: Classifier,
    guide: LoraGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[StepRecord]:
    """Fit a guide and the model's point estimates to a data set, in place.

    Parameters
    ----------
    model, guide
        The program; afterwards both are on accelerate's device.
    elbo
        The objective, which counts the steps.
    data
        Examples for the collator, with a column ``text``, or ``prompt`` and ``options``, by whose
        length batches are grouped.
    collator
        Makes the model's keywords, ``labels`` among them, from a list of examples.
    config
        Steps, rates and seed.
    on_step
        Called with each record, for progress bars and logs.

    Returns
    -------
    list of StepRecord
        One a step.

    Raises
    ------
    ValueError
        If the data set is empty.
    FloatingPointError
        If loss or gradient is not finite; the parameters are those after the step before.
    """
    if len(data) == 0:
        raise ValueError("the training data are empty; give at least one labelled example")
    flush_denormals()
    accelerator = Accelerator()
    make_steps = JointSteps if config.kl_learning_rate is None else DecoupledSteps
    steps: Steps = make_steps(model, guide, elbo, config, accelerator)
    loader = accelerator.prepare(_loader(data, collator, config))
    model.train()
    records: list[StepRecord] = []
    for batch in islice(_epochs(loader), config.num_steps):
        lr = steps.lr
        with flipout() if config.flipout else nullcontext():
            grad_norm = steps.take(batch)
        records.append(record_of(elbo, len(records), lr, grad_norm))
        if on_step is not None:
            on_step(records[-1])
    return records


def _epochs(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader


def _loader(data: Dataset, collator: Collator, config: TrainingConfig) -> DataLoader[Any]:
    # Examples of about one length share a batch, so that little time goes into padding.
    sampler = LengthGroupedSampler(
        config.batch_size,
        lengths=lengths(data),
        generator=torch.Generator().manual_seed(config.seed),
    )
    return DataLoader(data, batch_size=config.batch_size, sampler=sampler, collate_fn=collator)
