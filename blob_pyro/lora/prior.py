"""Priors over the weight of one LoRA projection."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, cast, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule, PyroSample
from torch.utils.weak import WeakTensorKeyDictionary

Share = Literal["model", "site"]


class LatentWeight(Protocol):
    """What a prior function gets to know about its weight.

    Attributes
    ----------
    name
        Name of the site: the dotted path of the layer, then ``.lora_A.weight`` (or ``lora_B``).
    initial_weight
        The adapter's own matrix, shape ``(r, n)``: the prior's shape, dtype and device.
    """

    name: str
    initial_weight: torch.Tensor


# Made once a weight, since that takes longer than the step's arithmetic on it; by scale.
_NORMALS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

Prior = Callable[[LatentWeight], TorchDistributionMixin]


@dataclass(frozen=True)
class NormalPrior:
    """The prior ``Normal(0, scale)`` over every entry of a projection's weight.

    Parameters
    ----------
    scale
        Standard deviation, in the units of the weight; positive and finite.

    Examples
    --------
    Any function from a :class:`LatentWeight` to a distribution will do in its place:

    >>> def by_layer(site):
    ...     scale = 0.1 if "q_proj" in site.name else 0.2
    ...     return dist.Normal(torch.zeros_like(site.initial_weight), scale).to_event(2)
    """

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, site: LatentWeight) -> TorchDistributionMixin:
        """Make the distribution on the device and in the dtype of a site's weight."""
        weight = site.initial_weight
        # An inference tensor could not serve in a later call that takes gradients.
        if torch.is_inference_mode_enabled():
            return self._normal(weight)
        known = _NORMALS.setdefault(weight, {})
        if self.scale not in known:
            known[self.scale] = self._normal(weight)
        return known[self.scale]

    def _normal(self, weight: torch.Tensor) -> TorchDistributionMixin:
        loc, scale = (
            weight.new_full((), value).expand(weight.shape) for value in (0.0, self.scale)
        )
        return dist.Normal(loc, scale, validate_args=False).to_event(2)

    def config(self) -> dict[str, Any]:
        """Give the constructor's arguments, as JSON values."""
        return {"scale": self.scale}


class HierarchicalNormalPrior(PyroModule):
    r"""A normal prior whose scale is a latent of its own, :math:`\sigma \sim HalfNormal(scale)`.

    A model holds it as a submodule, so a scale that all sites share is one site,
    ``prior.shared_scale``.

    Parameters
    ----------
    scale
        Scale of the half-normal hyper-prior, in the units of the weight.
    share
        ``"model"``: one :math:`\sigma` for all sites; ``"site"``: one each, with
        ``.prior_scale`` in the place of the site's ``.weight``.

    Raises
    ------
    ValueError
        If ``scale`` is not positive and finite, or ``share`` unknown.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=10, prior=HierarchicalNormalPrior(0.2))
    >>> trace = pyro.poutine.trace(model.sample_latents).get_trace()
    >>> [name for name in trace.stochastic_nodes if name.startswith("prior")]
    ['prior.shared_scale']
    """

    hyper_scale: torch.Tensor
    shared_scale: torch.Tensor

    def __init__(self, scale: float = 0.2, share: Share = "model") -> None:
        super().__init__()
        _check_scale(scale)
        if share not in get_args(Share):
            raise ValueError(f"share={share!r} is unknown; use 'model' or 'site'")
        self.share = share
        self._scale = scale
        self.register_buffer("hyper_scale", torch.tensor(scale), persistent=False)
        if share == "model":
            self.shared_scale = cast(Any, PyroSample(cast(Any, partial(_half_normal))))

    def forward(self, site: LatentWeight) -> TorchDistributionMixin:
        """Make the distribution of one site, given the draw of its scale."""
        if self.share == "model":
            scale = self.shared_scale
        else:
            # Beside the weight, not below it: autoguides take a dotted name for a path.
            path = site.name.removesuffix(".weight")
            scale = pyro.sample(f"{path}.prior_scale", _half_normal(self))
        loc = torch.zeros_like(site.initial_weight)
        return dist.Normal(loc, scale[..., None, None], validate_args=False).to_event(2)

    def config(self) -> dict[str, Any]:
        """Give the constructor's arguments, as JSON values."""
        return {"scale": self._scale, "share": self.share}


def _half_normal(prior: HierarchicalNormalPrior) -> TorchDistributionMixin:
    return dist.HalfNormal(prior.hyper_scale, validate_args=False)


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(
            f"prior_scale={scale} is not a standard deviation; give a positive and finite number "
            "(the paper uses 0.2)"
        )
