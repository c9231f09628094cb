"""The posterior predictive over a data set: draws first, then one pass of the data for each."""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch

from blob_pyro.infer.data_pass import log_likelihood, seeded
from blob_pyro.infer.posterior_draws import Batch, Draw, Guide
from blob_pyro.infer.posterior_functions import PosteriorFunctions
from blob_pyro.infer.progress import tracked
from blob_pyro.models import Classifier


def posterior_predictive(
    model: Classifier,
    guide: Guide,
    loader: Iterable[Batch],
    num_samples: int = 10,
    seed: int | None = None,
    *,
    parallel: bool | int = True,
    return_sites: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    r"""Predict a data set under draws from the posterior.

    A posterior draw is a function: the latents are drawn once, and every batch is predicted with
    the same K functions, so that quantities over several examples are right too.  The network is in
    evaluation mode (no dropout) for the time of the call.

    Parameters
    ----------
    model
        The Pyro model.
    guide
        Its fitted guide.  A :class:`blob_pyro.guides.LaplaceGuide` also says whether the draws go
        through the network or through the model linearised at its mean.
    loader
        Batches of keywords for the model, with or without ``labels``; a fixed order.  If its
        ``sampler`` has an ``order`` (see :class:`blob_pyro.tasks.LongestFirst`), the results are
        put back into the order of the data set.
    num_samples
        Number of draws K; 0 predicts with the posterior mean, as one "draw".
    seed
        Seed of the draws; None uses the global random state.  The global state is as
        before after a call with a seed.
    parallel
        How many draws share a forward pass: True for as many as pay (all of them; on the CPU up to
        1024 tokens a pass, beyond which it gets slower; one if the network can't run several), a
        number, or False for one.  Where memory runs out, half as many are tried, with a warning.
    return_sites
        Latent sites whose draws are returned too (``K x r x n`` each, under their names).
    progress
        Show a progress bar on the terminal.

    Returns
    -------
    dict
        ``logits`` (``K x N x C``; K = 1 in closed form) and, if the batches have labels, ``labels``
        (``N``) and ``log_likelihood`` (``K x N``, nats), on the CPU.

    Raises
    ------
    ValueError
        If the loader is empty, only some batches have labels, a label is out of range, a site is
        unknown, ``parallel`` is below 1, or a number that the network can't run.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=2)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": torch.tensor([0, 2])}
    >>> predictive = posterior_predictive(
    ...     model, LowRankGaussianGuide(model), [batch], num_samples=4, progress=False)
    >>> {name: tuple(value.shape) for name, value in predictive.items()}
    {'logits': (4, 2, 3), 'labels': (2,), 'log_likelihood': (4, 2)}

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, section 3.4 (Bayesian model averaging).
    """
    logits, labels = [], []
    # A shuffling loader takes random numbers when it starts.
    with seeded(seed):
        batches = tracked(loader, progress)
        first = next(batches, None)
    if first is None:
        raise ValueError("the loader gave no batch; there is nothing to predict")
    functions = PosteriorFunctions(model, guide, first, num_samples, seed, parallel=parallel)
    chosen = _chosen(functions.draws, return_sites)
    for batch in chain([first], batches):
        if ("labels" in first) != ("labels" in batch):
            raise ValueError("only some batches have labels; give labels for all or for none")
        logits.append(functions(batch))
        labels += [batch["labels"].cpu()] if "labels" in batch else []
    rows = _places(loader, sum(batch.shape[1] for batch in logits))
    predictive = {"logits": torch.cat(logits, dim=1)[:, rows]}
    if labels:
        predictive["labels"] = torch.cat(labels)[rows]
        predictive["log_likelihood"] = log_likelihood(predictive["logits"], predictive["labels"])
    return predictive | chosen


def _places(loader: Iterable[Batch], num_rows: int) -> torch.Tensor:
    """Say in which row of what was read each example of the data set stands."""
    order = getattr(getattr(loader, "sampler", None), "order", range(num_rows))
    return torch.as_tensor(order).argsort()


def _chosen(draws: list[Draw], sites: Sequence[str]) -> dict[str, torch.Tensor]:
    for site in sites:
        if site not in draws[0]:
            raise ValueError(f"return_sites: the guide has no site {site!r} but {[*draws[0]]}")
    return {site: torch.stack([draw[site].cpu() for draw in draws]) for site in sites}
