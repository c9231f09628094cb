"""How a guide's draws of a few weights compare with the posterior that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from blob_pyro.guides import LoraGuide
from blob_pyro.guides.hyper_posterior import hyper_sites
from blob_pyro.infer.log_densities import log_densities
from blob_pyro.infer.posterior_draws import Batch
from blob_pyro.infer.posterior_predictive import posterior_predictive
from blob_pyro.models import Classifier


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
        Seed of the draws; None goes on with the global random state.
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
