"""Draws from a posterior as functions, and the predictive that they make of a data set."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import chain

import torch
from accelerate.utils.memory import should_reduce_batch_size

from blob_pyro.infer.data_pass import evaluation_mode, log_likelihood, on_device, seeded
from blob_pyro.infer.posterior_draws import Batch, Draw, Guide, posterior_draws
from blob_pyro.infer.progress import tracked
from blob_pyro.models import Classifier
from blob_pyro.models.text_trials import same

# A CPU gains by fewer calls, and loses by temporaries that no longer fit its caches and free lists:
# examples/benchmarks/predictive.py.
_CPU_TOKENS = 1024


class DrawsAtOnce:
    """Runs a model under fixed draws, a group of them in each forward pass.

    In a group the inputs are tiled, and each projection is one batched product.  Layers below the
    first latent one run once for all draws, where a trial shows that this changes nothing.

    Parameters
    ----------
    model
        The Pyro model.
    draws
        Site name to value, for each draw.
    parallel
        Draws a group: True for as many as pay (all of them, on the CPU up to 1024 tokens a pass; 1
        if the network can't run several in one pass or is divided among processes), a number, or
        False for 1.  Where memory runs out, it is halved for good, with a warning.

    Raises
    ------
    ValueError
        If ``parallel`` is a number below 1, or above 1 and the network can't run several draws in
        one pass.
    """

    def __init__(self, model: Classifier, draws: Sequence[Draw], parallel: bool | int) -> None:
        if parallel is not False and parallel < 1:
            raise ValueError(f"parallel={parallel}: give 1 draw a forward pass or more, or True")
        self.model = model
        self.draws = draws
        # Of a network that is divided, each process has to make the same passes.
        self.in_step = model.is_sharded
        chosen = 1 if self.in_step else len(draws)
        self.size = chosen if parallel is True else max(1, int(parallel))
        self.chooses = parallel is True
        if min(self.size, len(draws)) > 1:
            try:
                model.example_axes()
            except ValueError:
                if not self.chooses:
                    raise
                self.size = 1

    def logits(self, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch of B under all K draws, ``K x B x C``, on the CPU."""
        shares = len(self.draws) > 1 and self._shares_trunk(batch)
        try:
            while True:
                size = self._group_size(batch)
                # The first draw's pass runs the trunk, on each row once.
                start = 1 if shares else 0
                groups = [self.draws[i : i + size] for i in range(start, len(self.draws), size)]
                groups = [self.draws[:start], *groups] if shares else groups
                try:
                    return torch.cat([self._group_logits(group, batch, shares) for group in groups])
                except RuntimeError as error:
                    if size == 1 or self.in_step or not should_reduce_batch_size(error):
                        raise
                    self.size = size // 2
                    warnings.warn(
                        f"memory ran out with {size} draws in one forward pass; going on with "
                        f"{self.size}. Pass parallel={self.size}, or make the batches smaller",
                        stacklevel=3,
                    )
        finally:
            self.model.trunk.forget()

    def _group_logits(self, group: Sequence[Draw], batch: Batch, shares: bool) -> torch.Tensor:
        trunk = self.model.trunk.shared(len(group)) if shares else nullcontext()
        with trunk:
            # With the labels, which the model checks.
            return self.model.logits_under(group, **batch).cpu()

    def _shares_trunk(self, batch: Batch) -> bool:
        """Tell whether the layers below the first latent one may run once, by a trial if new."""
        trunk, last, rows = self.model.trunk, self.draws[-2:], batch["input_ids"]
        # An ensemble's members may differ below their matrices too.
        if trunk.is_watched or any(name in last[0] for name in self.model.heads):
            return False
        tiles = self._group_size(batch) > 1
        # What a layer gives beside its hidden states may fit one row only, or untiled ones.
        kind = frozenset(batch), tiles, len(rows) > 1
        if trunk.layers and kind not in trunk.proved:
            single = [[draw] for draw in last]
            groups = [last] if tiles else single
            wanted = torch.cat([self._group_logits(group, batch, False) for group in single])
            try:
                self._group_logits(self.draws[:1], batch, True)
                found = torch.cat([self._group_logits(group, batch, True) for group in groups])
                trunk.proved[kind] = same(self.model.network, found, wanted)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                trunk.proved[kind] = False
            finally:
                trunk.forget()
        return trunk.proved.get(kind, False)

    def _group_size(self, batch: Batch) -> int:
        ids = batch["input_ids"]
        if not self.chooses or self.size == 1:
            return self.size
        try:
            self.model.check_draws_at_once(**batch)
        except ValueError:
            return 1
        return max(1, min(self.size, _CPU_TOKENS // ids.numel())) if ids.is_cpu else self.size


class PosteriorFunctions:
    """K functions drawn from a posterior, for a stream of batches.

    Whatever they are called with later, they are the same functions; calls leave nothing behind, so
    the memory of a stream does not grow.

    Parameters
    ----------
    model, guide
        As in :func:`blob_pyro.infer.posterior_predictive`.
    batch
        Any batch, on any device, since a guide of Pyro's may ask for its arguments; nothing is
        predicted yet.
    num_samples
        Number of draws K; 0 for the posterior mean, as one "draw".
    seed
        Seed of the draws; None goes on with the global random state, which a seed leaves as it was.
    parallel
        How many draws share a forward pass, see :func:`blob_pyro.infer.posterior_predictive`.

    Attributes
    ----------
    draws : list of dict
        Site name to value, for each draw.

    Raises
    ------
    ValueError
        If ``num_samples`` or ``parallel`` is out of its range.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=2)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]])}
    >>> functions = PosteriorFunctions(model, LowRankGaussianGuide(model), batch, num_samples=4)
    >>> functions(batch).shape
    torch.Size([4, 2, 3])
    """

    def __init__(
        self,
        model: Classifier,
        guide: Guide,
        batch: Batch,
        num_samples: int = 10,
        seed: int | None = None,
        *,
        parallel: bool | int = True,
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        with torch.no_grad(), seeded(seed), evaluation_mode(model):
            # A function has one temperature, whoever calibrates later.
            self._temperature = model.temperature
            self.draws = posterior_draws(guide, num_samples, on_device(self._device, batch))
            self._logits = _logits_of(model, guide, self.draws, num_samples, parallel)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch of B, ``K x B x C`` (K = 1 in closed form), on the CPU."""
        model = self._model
        with torch.no_grad(), evaluation_mode(model):
            now, model.temperature = model.temperature, self._temperature
            try:
                return self._logits(on_device(self._device, batch)).cpu()
            finally:
                model.temperature = now


def _logits_of(
    model: Classifier, guide: Guide, draws: list[Draw], num_samples: int, parallel: bool | int
) -> Callable[[Batch], torch.Tensor]:
    own = getattr(guide, "logits_function", None) if num_samples else None
    function: Callable[[Batch], torch.Tensor] | None = own(model, draws) if own else None
    return function or DrawsAtOnce(model, draws, parallel).logits


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
