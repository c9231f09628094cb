"""Which PEFT models and layers can be made Bayesian, and what to do about the others."""

import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from pyro import poutine
from torch import nn

from blob_pyro.lora.projection import LoraProjection
from blob_pyro.lora.sites import Latent
from blob_pyro.poutine import in_turn

# These layers never call the module lora_A, so a latent weight there would have no effect.
_BYPASSING_LAYERS = (
    lora.layer.Embedding,
    lora.layer._ConvNd,
    lora.layer.MultiheadAttention,
    lora.layer.ParamWrapper,
)


def check_peft_model(net: object) -> None:
    """Raise a ``TypeError`` if a network has not been wrapped by PEFT."""
    if not isinstance(net, PeftModel):
        raise TypeError(
            f"blob_pyro needs a PeftModel but got {type(net).__name__}; wrap the network with "
            "peft.get_peft_model(net, LoraConfig(...)) first"
        )


def check_no_adapter(network: nn.Module) -> None:
    """Raise a ``ValueError`` if a network has LoRA layers, which a second adapter would replace."""
    if any(isinstance(module, LoraLayer) for module in network.modules()):
        raise ValueError(
            f"the {type(network).__name__} has LoRA layers already, such as those of a posterior "
            "over it, which another adapter of this name would replace; load the network anew, or "
            "call unload() of its PeftModel first (load_posterior: give the PeftModel, and "
            "adapter=... for another name)"
        )


def check_latent(latent: Latent) -> None:
    """Raise a ``ValueError`` if these are not matrices that can be latent together."""
    if tuple(latent) not in (("A",), ("A", "B")):
        raise ValueError(f"latent={latent!r} is unknown; use ('A',) or ('A', 'B')")


def layers_to_replace(peft_model: PeftModel, adapter: str, latent: Latent) -> dict[str, LoraLayer]:
    """Give the LoRA layers of an adapter by name, or raise a ``ValueError``."""
    layers = {}
    for name, layer in peft_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if adapter in layer.lora_embedding_A or adapter in layer.lora_A:
            _check_layer(name, layer, adapter)
            if "B" in latent and layer.lora_bias[adapter]:
                raise ValueError(
                    f"layer {name!r} has lora_bias=True, so its lora_B is more than a matrix; use "
                    "lora_bias=False, or latent=('A',)"
                )
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


def check_prior(projection: LoraProjection) -> None:
    """Raise a ``ValueError`` if the prior of a projection has another shape than its weight."""
    # A hyper-prior draws when it is asked: neither the model's trace nor its noise may notice.
    with in_turn(), poutine.block(), torch.random.fork_rng(devices=[]):
        distribution = projection.prior(projection)
    shape = projection.initial_weight.shape
    if distribution.event_shape != shape or distribution.batch_shape:
        raise ValueError(
            f"site {projection.name!r}: the prior has event shape "
            f"{tuple(distribution.event_shape)} and batch shape {tuple(distribution.batch_shape)} "
            f"but the weight needs {tuple(shape)} and (); end it with .to_event(2)"
        )
