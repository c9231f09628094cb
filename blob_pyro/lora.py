"""LoRA projections whose weight is a Pyro latent, inside an otherwise unchanged PEFT model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pyro.distributions as dist
import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import pyro_method
from torch import nn

from blob_pyro.poutine import AppliedWeight, apply_weight

# These layers never call the module lora_A, so a latent weight there would have no effect.
_BYPASSING_LAYERS = (
    lora.layer.Embedding,
    lora.layer._ConvNd,
    lora.layer.MultiheadAttention,
    lora.layer.ParamWrapper,
)


@dataclass(frozen=True)
class NormalPrior:
    """The prior ``Normal(0, scale)`` over every entry of a projection's weight.

    Parameters
    ----------
    scale
        Standard deviation, in the units of the weight; positive and finite.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(
                f"prior_scale={self.scale} is not a standard deviation; give a positive and finite "
                "number (the paper uses 0.2)"
            )

    def __call__(self, projection: LoraProjection) -> TorchDistributionMixin:
        """Make the distribution on the device and in the dtype of a projection's weight."""
        loc = projection.initial_weight.new_zeros(())
        prior = dist.Normal(loc, loc + self.scale, validate_args=False)
        return prior.expand(projection.initial_weight.shape).to_event(2)


class LoraProjection(PyroModule):
    """The down-projection ``x -> x A^T`` of a LoRA layer, with ``A`` a latent variable.

    It takes the place of the ``nn.Linear`` that PEFT keeps in ``lora_A[adapter]``.  A model calls
    :meth:`sample` and :meth:`install` before it runs the network, which then computes with that
    draw and contains no Pyro statement; the draw stays until the next one, so that gradient
    checkpointing recomputes with the same weight.  Without a draw, calling the projection is a
    sample statement like any other ``PyroSample``.

    Parameters
    ----------
    name
        Dotted path of the ``lora_A`` in the PEFT model; the site is ``name + ".weight"``.
    weight
        The adapter's own ``lora_A``, shape ``(r, n)``: where a guide starts.
    prior
        Makes the prior distribution, of event shape ``(r, n)``, from this projection.
    """

    initial_weight: torch.Tensor

    def __init__(self, name: str, weight: torch.Tensor, prior: NormalPrior) -> None:
        super().__init__(name)
        self.site = f"{name}.weight"
        self.prior = prior
        self.register_buffer("initial_weight", weight.detach().clone(), persistent=False)
        self._draw: torch.Tensor | None = None
        self._applied: AppliedWeight | None = None
        self.weight = PyroSample(cast(Any, prior))

    @property
    def in_features(self) -> int:
        """Input features n."""
        return self.initial_weight.shape[1]

    @property
    def out_features(self) -> int:
        """Rank r."""
        return self.initial_weight.shape[0]

    def prior_distribution(self) -> TorchDistributionMixin:
        """Give the prior over the weight, on the weight's device, event shape ``(r, n)``."""
        return self.prior(self)

    @pyro_method
    def sample(self) -> torch.Tensor:
        """Draw the weight: the sample statement of this site."""
        self._draw = self._applied = None
        return cast(torch.Tensor, self.weight)

    def install(self, weight: torch.Tensor, shape: torch.Size) -> None:
        """Make the network use a draw, applied as the handlers in scope say."""
        self._draw = weight
        self._applied = apply_weight(weight, shape, name=self.site)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project ``(rows, ..., n)`` to ``(rows, ..., r)`` with the draw, or with a new one."""
        if self._applied is not None:
            return self._applied(x)
        return apply_weight(self.weight, x.shape[:-1], name=self.site)(x)

    def __getattr__(self, name: str) -> Any:
        # PEFT reads weight.dtype at each call: that must be no sample statement, and no noise.
        if name == "weight" and not self._pyro_context.active:
            return self.initial_weight if self._draw is None else self._draw
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        # A draw belongs to the call that made it (and its graph cannot be copied).
        return {**self.__dict__, "_draw": None, "_applied": None}


@dataclass(frozen=True)
class LoraSite:
    """A latent site together with the PEFT layer that it belongs to."""

    layer: LoraLayer
    adapter: str

    @property
    def projection(self) -> LoraProjection:
        """The module that stands in ``lora_A``."""
        return cast(LoraProjection, self.layer.lora_A[self.adapter])

    @property
    def lora_B(self) -> torch.Tensor:
        """Deterministic up-projection, shape ``(m, r)``."""
        return cast(torch.Tensor, self.layer.lora_B[self.adapter].weight)

    @property
    def scaling(self) -> float:
        """The factor ``s``: ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA."""
        return float(self.layer.scaling[self.adapter])


def lora_sites(net: nn.Module, adapter: str = "default") -> dict[str, LoraSite]:
    """Find the latent sites of a network that went through :func:`bayesianize`.

    Parameters
    ----------
    net
        A PEFT model.
    adapter
        Name of the Bayesian adapter.

    Returns
    -------
    dict
        Site name to :class:`LoraSite`, in the network's order; empty if nothing is Bayesian.
    """
    layers = (module for module in net.modules() if isinstance(module, LoraLayer))
    sites = (LoraSite(layer, adapter) for layer in layers if adapter in layer.lora_A)
    return {
        site.projection.site: site for site in sites if isinstance(site.projection, LoraProjection)
    }


def bayesianize(
    peft_model: PeftModel, prior_scale: float = 0.2, adapter: str = "default"
) -> dict[str, str]:
    r"""Make the LoRA ``A`` matrices of a PEFT model latent, in place.

    Each ``lora_A[adapter]`` becomes a ``PyroModule`` whose ``weight`` is a ``PyroSample`` with
    prior :math:`A_{ij} \sim N(0, \sigma_p^2)`.  Nothing else of the model changes.

    Parameters
    ----------
    peft_model
        A model with LoRA layers over linear layers (``nn.Linear``, GPT-2's ``Conv1D``, quantised).
    prior_scale
        :math:`\sigma_p`, in the units of the weights.
    adapter
        Name of the adapter, which must be active and not merged.

    Returns
    -------
    dict
        Layer name (dotted path in ``peft_model``) to site name.  A site is named as PEFT names
        the matrix in ``adapter_model.safetensors``.

    Raises
    ------
    TypeError
        If ``peft_model`` is not a ``PeftModel``.
    ValueError
        If there is no LoRA layer or a layer cannot be made Bayesian; nothing is changed then.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> net = get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]))
    >>> bayesianize(net)
    {'base_model.model.0': 'base_model.model.0.lora_A.weight'}

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
    prior = NormalPrior(prior_scale)
    layers = _layers_to_replace(peft_model, adapter)
    for name, layer in layers.items():
        linear = layer.lora_A[adapter]
        projection = LoraProjection(f"{name}.lora_A", cast(torch.Tensor, linear.weight), prior)
        layer.lora_A[adapter] = projection.train(linear.training)
    return {name: f"{name}.lora_A.weight" for name in layers}


def check_peft_model(net: object) -> None:
    """Raise a ``TypeError`` if a network has not been wrapped by PEFT."""
    if not isinstance(net, PeftModel):
        raise TypeError(
            f"blob_pyro needs a PeftModel but got {type(net).__name__}; wrap the network with "
            "peft.get_peft_model(net, LoraConfig(...)) first"
        )


def _layers_to_replace(peft_model: PeftModel, adapter: str) -> dict[str, LoraLayer]:
    layers = {}
    for name, layer in peft_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if adapter in layer.lora_embedding_A or adapter in layer.lora_A:
            _check_layer(name, layer, adapter)
            layers[name] = layer
    if not layers:
        raise ValueError(
            f"adapter {adapter!r} has no LoRA layer to make Bayesian; give LoraConfig "
            "target_modules that name linear layers, such as ['q_proj', 'v_proj']"
        )
    return layers


def _check_layer(name: str, layer: LoraLayer, adapter: str) -> None:
    """Raise if a latent ``lora_A`` in this layer would be impossible or have no effect."""
    kind = type(layer).__name__
    if isinstance(layer, _BYPASSING_LAYERS):
        raise ValueError(
            f"layer {name!r} is a LoRA {kind} layer, which does not call lora_A as a linear map; "
            "leave it out of target_modules"
        )
    if adapter in layer.lora_variant:
        variant = type(layer.lora_variant[adapter]).__name__
        raise ValueError(
            f"layer {name!r} uses the LoRA variant {variant}, which bypasses lora_A; "
            "use plain LoRA or rsLoRA (for DoRA: use_dora=False)"
        )
    if isinstance(layer.lora_A[adapter], LoraProjection):
        raise ValueError(
            f"layer {name!r}: adapter {adapter!r} is already Bayesian; use the model as it is, or "
            "call unbayesianize(peft_model) first"
        )
    if layer.merged:
        raise ValueError(
            f"layer {name!r} is merged ({layer.merged_adapters}), so lora_A is not used; call "
            "peft_model.unmerge_adapter() first"
        )
    if layer.disable_adapters or adapter not in layer.active_adapters:
        raise ValueError(
            f"layer {name!r}: adapter {adapter!r} is disabled or not active; call "
            f"peft_model.base_model.enable_adapter_layers() and "
            f"peft_model.set_adapter({adapter!r}) first"
        )


def unbayesianize(
    peft_model: PeftModel,
    mean: Mapping[str, torch.Tensor] | None = None,
    adapter: str = "default",
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
        site.layer.lora_A[adapter] = linears[name]
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


class CheckpointContexts:
    """Make ``torch.utils.checkpoint`` recompute each segment with the draw it first ran with.

    Needed where several draws are made before one backward pass; see
    ``SequenceClassifier.gradient_checkpointing_enable``, which passes it on.  An object and no
    closure, so that ``copy.deepcopy`` of a network makes it follow the copy.

    Parameters
    ----------
    net
        A PEFT model that went through :func:`bayesianize`.
    adapter
        Name of the Bayesian adapter.
    """

    def __init__(self, net: nn.Module, adapter: str = "default") -> None:
        self._projections = [site.projection for site in lora_sites(net, adapter).values()]

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Give the contexts of the forward pass and of the recomputation: a ``context_fn``."""
        applied = [projection._applied for projection in self._projections]
        return nullcontext(), _reinstalled(self._projections, applied)


@contextmanager
def _reinstalled(
    projections: list[LoraProjection], applied: list[AppliedWeight | None]
) -> Iterator[None]:
    current = [projection._applied for projection in projections]
    _set_applied(projections, applied)
    try:
        yield
    finally:
        _set_applied(projections, current)


def _set_applied(projections: list[LoraProjection], applied: list[AppliedWeight | None]) -> None:
    for projection, function in zip(projections, applied, strict=True):
        projection._applied = function
