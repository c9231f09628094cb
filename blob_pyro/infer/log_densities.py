"""Log densities of draws under prior and guide, and the importance ratios that follow."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from blob_pyro.distributions import ColumnDropout
from blob_pyro.guides import LoraGuide
from blob_pyro.guides.hyper_posterior import hyper_sites
from blob_pyro.infer.posterior_draws import Batch
from blob_pyro.infer.posterior_functions import posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.poutine import in_turn, sample_sites

SiteValues = dict[str, torch.Tensor]


def log_densities(
    guide: LoraGuide, draws: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    """Evaluate the prior and the guide at draws of chosen sites.

    The result is what :func:`blob_pyro.diagnostics.to_arviz` takes, as
    ``to_arviz(predictive, posterior=draws, **log_densities(guide, draws))``.

    Parameters
    ----------
    guide
        A guide of this library; its sites are independent of one another.
    draws
        Site name to K x r x n, as ``posterior_predictive(..., return_sites=[...])`` gives them;
        with a hyper-prior, all of its sites among them. Any device.

    Returns
    -------
    dict
        ``log_prior`` and ``log_q``: site name to K, float, nats, on the CPU. A prior whose scale
        is latent is that given the draw's scale.

    Raises
    ------
    ValueError
        If a site is unknown, a draw has another shape, a hyper-site is missing, or the guide has no
        density.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = LowRankGaussianGuide(SequenceClassifier(net, num_data=10))
    >>> draws = {name: mean.expand(30, 2, 16) for name, mean in guide.mean().items()}
    >>> [tuple(value.shape) for value in log_densities(guide, draws)["log_q"].values()]
    [(30,), (30,)]
    """
    like = next(iter(guide.mean().values()))
    values = {name: draw.to(like) for name, draw in draws.items()}
    with in_turn(), torch.no_grad(), poutine.block():
        if missing := hyper_sites(guide.model).keys() - values.keys():
            raise ValueError(f"draws lack the sites {sorted(missing)} of the hyper-prior; add them")
        log_q = {name: _log_q(guide, name, value) for name, value in values.items()}
        num_draws = len(next(iter(values.values()), []))
        singles = [{name: value[k] for name, value in values.items()} for k in range(num_draws)]
        priors = [_log_prior(guide, single) for single in singles]
    log_prior = {name: torch.stack([prior[name] for prior in priors]).cpu() for name in values}
    return {"log_prior": log_prior, "log_q": log_q}


def _log_q(guide: LoraGuide, name: str, value: torch.Tensor) -> torch.Tensor:
    names = [*guide.sites, *hyper_sites(guide.model)]
    if name not in names:
        raise ValueError(f"draws: the guide has no site {name!r} but {names}")
    at = guide.site_posterior if name in guide.sites else guide.hyper.site_posterior
    posterior = at(name)
    if isinstance(posterior, dist.Delta | ColumnDropout):
        raise ValueError(
            f"{type(guide).__name__} has points for site {name!r}, which have no density; leave "
            "log_prior and log_q out"
        )
    if value.shape[1:] != posterior.event_shape or value.dim() != 1 + len(posterior.event_shape):
        raise ValueError(
            f"draws of site {name!r} have the shape {(*value.shape,)}; wanted K x "
            f"{(*posterior.event_shape,)}, as posterior_predictive(..., return_sites=[...]) has it"
        )
    return posterior.log_prob(value).cpu()


def _log_prior(guide: LoraGuide, draw: SiteValues) -> SiteValues:
    # The random state does not notice the sites that are drawn beside.
    with in_turn(), torch.random.fork_rng(devices=[]):
        conditioned = poutine.condition(guide.model.sample_latents, draw)
        trace = poutine.trace(conditioned).get_trace()
    priors = dict(sample_sites(trace))
    return {name: priors[name]["fn"].log_prob(value).sum() for name, value in draw.items()}


def importance_log_weights(
    model: Classifier,
    guide: LoraGuide,
    loader: Iterable[Batch],
    subset: Mapping[str, torch.Tensor],
    num_samples: int = 200,
    seed: int | None = None,
    *,
    kl_scale: float = 1.0,
    progress: bool = True,
) -> torch.Tensor:
    r"""Give log importance ratios of draws of a few weights, all others held at the guide's mean.

    :math:`\frac{1}{\kappa} \sum_n \log p(y_n | x_n, A_S, M_{\bar S}) + \log p(A_S) - \log q(A_S)`
    for :math:`A_S \sim q`, up to a constant: the posterior of the subset S *given* the others
    over the guide of the subset. :func:`blob_pyro.diagnostics.pareto_k` reads them. Over all
    weights the ratios of any guide say nothing, since their variance grows exponentially with the
    number of latents: choose a few dozens.

    Parameters
    ----------
    model, guide
        The fitted program, without a hyper-prior.
    loader
        The *training* data, all of it and each example once, with labels.
    subset
        Site name to a mask ``r x n``, bool, True for the chosen entries.
    num_samples
        Number of draws K.
    seed
        Seed of the draws; None uses the global random state.
    kl_scale
        That of the objective: the guide aims at prior times likelihood to the power of its inverse.
    progress
        Show a progress bar on the terminal.

    Returns
    -------
    torch.Tensor
        K, float64, nats, on the CPU.

    Raises
    ------
    ValueError
        If the loader does not hold the training data, a site or mask does not fit, the entries of
        a site that is chosen in part are correlated, the prior has latents of its own, or
        ``kl_scale`` is not positive.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, num_data=2)
    >>> guide = LowRankGaussianGuide(model)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": torch.tensor([0, 2])}
    >>> row = {name: torch.arange(2)[:, None].expand(2, 16) == 0 for name in model.sites}
    >>> importance_log_weights(model, guide, [batch], row, 30, progress=False).shape
    torch.Size([30])

    References
    ----------
    Yao, Vehtari, Simpson, Gelman: "Yes, but did it work? Evaluating variational inference",
    ICML 2018, section 2.
    """
    if not kl_scale > 0:
        raise ValueError(f"kl_scale={kl_scale} must be positive")
    _check_subset(guide, subset)

    def chosen_entries(**_batch: Any) -> None:
        for name, mean in guide.mean().items():
            value = mean
            if name in subset:
                draw = guide.site_posterior(name).sample()
                value = torch.where(subset[name].to(mean.device), draw, mean)
            pyro.sample(name, dist.Delta(value, event_dim=2))

    predictive = posterior_predictive(
        model, chosen_entries, loader, num_samples, seed, return_sites=[*subset], progress=progress
    )
    if "labels" not in predictive or len(predictive["labels"]) != model.num_data:
        raise ValueError(
            f"the loader gave {predictive['logits'].shape[1]} examples, but the posterior is that "
            f"of num_data={model.num_data} labelled ones; give the training data, each once"
        )
    densities = log_densities(guide, {site: predictive[site] for site in subset})
    log_prior, log_q = (sum(each.values()) for each in densities.values())
    log_likelihood = predictive["log_likelihood"].double().sum(dim=1)
    # Entries that are not chosen add the same number to all draws.
    return log_likelihood / kl_scale + torch.as_tensor(log_prior - log_q).double()


def _check_subset(guide: LoraGuide, subset: Mapping[str, torch.Tensor]) -> None:
    if latent := [*hyper_sites(guide.model)]:
        raise ValueError(f"the prior has the latent sites {latent}; take one that has none")
    for name, mask in subset.items():
        if name not in guide.sites:
            raise ValueError(f"subset: the guide has no site {name!r} but {[*guide.sites]}")
        shape = guide.M[name].shape
        if mask.shape != shape or mask.dtype != torch.bool or not mask.any():
            raise ValueError(
                f"subset[{name!r}] has the shape {(*mask.shape,)}, dtype {mask.dtype} and chooses "
                f"{int(mask.sum())}; wanted a bool mask of the shape {(*shape,)}, not all False"
            )
        if not guide.independent_entries and not mask.all():
            raise ValueError(
                f"subset[{name!r}]: {type(guide).__name__} correlates entries; choose whole sites"
            )
