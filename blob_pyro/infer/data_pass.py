"""Going over a data set without training: modes, devices and the random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from blob_pyro.infer.posterior_draws import Batch
from blob_pyro.models import BayesianLora
from blob_pyro.models.batches import checked_labels
from blob_pyro.models.without_dropout import without_dropout
from blob_pyro.poutine import taking_turns


def on_device(device: torch.device, batch: Batch) -> dict[str, torch.Tensor]:
    """Move the tensors of a batch."""
    return {name: value.to(device) for name, value in batch.items()}


def log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log probabilities of the labels, nats: ``K x N`` from logits ``K x N x C``."""
    labels = checked_labels(labels, logits.shape[1:2])
    index = labels.expand(logits.shape[0], -1)[..., None]
    return logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)


@contextmanager
def evaluation_mode(model: BayesianLora) -> Iterator[None]:
    """Switch dropout off inside a ``with`` block; other threads wait for the network."""
    with model.use.running(), without_dropout(model):
        yield


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed without changing the global random state; None uses the global state."""
    with taking_turns(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
