"""Making the LoRA matrices of a PEFT model latent, and ordinary again."""

from collections.abc import Mapping
from typing import cast

import torch
from peft import PeftModel
from torch import nn

from blob_pyro.lora.layer_checks import (
    check_latent,
    check_peft_model,
    check_prior,
    layers_to_replace,
)
from blob_pyro.lora.prior import NormalPrior, Prior
from blob_pyro.lora.projection import LoraProjection, NetworkUse, use_of
from blob_pyro.lora.quantised import use_dequantised_weights
from blob_pyro.lora.sites import Latent, LoraSite, lora_sites


def bayesianize(
    peft_model: PeftModel,
    prior_scale: float = 0.2,
    adapter: str = "default",
    *,
    prior: Prior | None = None,
    latent: Latent = ("A",),
) -> dict[str, LoraSite]:
    r"""Make the LoRA ``A`` matrices of a PEFT model latent, in place.

    Each ``lora_A[adapter]`` becomes a ``PyroModule`` whose ``weight`` is a ``PyroSample`` with
    prior :math:`A_{ij} \sim N(0, \sigma_p^2)`; ``lora_B[adapter]`` too, if asked for.  Nothing else
    of the model changes.

    Parameters
    ----------
    peft_model
        A model with LoRA layers over linear layers (``nn.Linear``, GPT-2's ``Conv1D``, quantised).
    prior_scale
        :math:`\sigma_p`, in the units of the weights.
    adapter
        Name of the adapter, which must be active and not merged.
    prior
        Any function from a :class:`~blob_pyro.lora.LatentWeight` to a distribution of event shape
        ``(r, n)``, in place of ``NormalPrior(prior_scale)``.
    latent
        ``("A",)``, BLoB's asymmetric choice, or ``("A", "B")``.

    Returns
    -------
    dict
        Site name to :class:`LoraSite`.  A site is named as PEFT names the matrix in
        ``adapter_model.safetensors``.

    Raises
    ------
    TypeError
        If ``peft_model`` is not a ``PeftModel``.
    ValueError
        If ``latent`` is unknown, there is no LoRA layer, a layer cannot be made Bayesian, or a
        prior does not have the shape of its weight; nothing is changed then.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> net = get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]))
    >>> list(bayesianize(net))
    ['base_model.model.0.lora_A.weight']

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, section 3.1 (asymmetric Bayesianisation) and equation 6.
    """
    check_peft_model(peft_model)
    if adapter not in peft_model.peft_config:
        raise ValueError(
            f"adapter {adapter!r} is not in the PEFT model, which has "
            f"{sorted(peft_model.peft_config)}; pass adapter=..."
        )
    check_latent(latent)
    prior = prior or NormalPrior(prior_scale)
    use = use_of(peft_model)
    projections = [
        (owner, _as_projection(f"{name}.lora_{matrix}", owner[adapter], prior, use))
        for name, layer in layers_to_replace(peft_model, adapter, latent).items()
        for matrix in latent
        for owner in [getattr(layer, f"lora_{matrix}")]
    ]
    use_dequantised_weights(peft_model)
    for owner, projection in projections:
        owner[adapter] = projection
    return lora_sites(peft_model, adapter)


def _as_projection(path: str, linear: nn.Module, prior: Prior, use: NetworkUse) -> LoraProjection:
    projection = LoraProjection(path, cast(torch.Tensor, linear.weight), prior, use)
    check_prior(projection)
    return projection.train(linear.training)


def unbayesianize(
    peft_model: PeftModel, mean: Mapping[str, torch.Tensor] | None = None, adapter: str = "default"
) -> PeftModel:
    """Turn a Bayesian adapter back into an ordinary one, in place.

    Parameters
    ----------
    peft_model
        A model that went through :func:`bayesianize`.
    mean
        Site name to weight of shape ``(r, n)``: ``guide.mean()`` for the posterior mean.  None
        gives back the weights from before :func:`bayesianize`.
    adapter
        Name of the Bayesian adapter.

    Returns
    -------
    PeftModel
        The same object, with ``nn.Linear`` projections again.

    Raises
    ------
    ValueError
        If nothing is Bayesian, or ``mean`` lacks a site or has another shape; nothing is changed.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> net = get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]))
    >>> sites = bayesianize(net)
    >>> type(unbayesianize(net).base_model.model[0].lora_A["default"]).__name__
    'Linear'
    """
    sites = lora_sites(peft_model, adapter)
    if not sites:
        raise ValueError(f"adapter {adapter!r} has no Bayesian layer; call bayesianize first")
    linears = {name: _as_linear(name, site.projection, mean) for name, site in sites.items()}
    for name, site in sites.items():
        getattr(site.layer, f"lora_{site.matrix}")[adapter] = linears[name]
    return peft_model


def _as_linear(
    name: str, projection: LoraProjection, mean: Mapping[str, torch.Tensor] | None
) -> nn.Linear:
    weight = projection.initial_weight
    if mean is not None:
        if name not in mean:
            raise ValueError(f"mean has no entry for site {name!r}; pass guide.mean()")
        if mean[name].shape != weight.shape:
            raise ValueError(
                f"mean of site {name!r} has shape {tuple(mean[name].shape)} but the layer needs "
                f"{tuple(weight.shape)}; was the guide fitted with another rank?"
            )
        weight = mean[name].to(weight)
    linear = nn.Linear(projection.in_features, projection.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    return linear.train(projection.training)
