"""Whether the saved adapter would be all of what is trained."""

import math
from typing import Any, cast

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

# Settings of LoraConfig that leave the base model as it is.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    "bias": ("none",),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
}


def check_saveable(net: PeftModel, adapter: str) -> None:
    """Raise a ``ValueError`` if a saved adapter would not give this network back.

    Parameters
    ----------
    net
        A PEFT model.
    adapter
        Name of the adapter that is to be saved.
    """
    config = net.peft_config[adapter]
    for name, allowed in _ALLOWED.items():
        if (value := getattr(config, name, allowed[0])) not in allowed:
            raise ValueError(
                f"LoraConfig({name}={value!r}) changes the base model's weights, which a saved "
                f"posterior compares at loading; use one of {list(allowed)}"
            )
    layers = {n: m for n, m in net.named_modules() if isinstance(m, LoraLayer) and adapter in m.r}
    for name, layer in layers.items():
        _check_layer(name, layer, adapter)
    _check_parameters(net, adapter)


def _check_layer(name: str, layer: LoraLayer, adapter: str) -> None:
    others = [active for active in layer.active_adapters if active != adapter]
    if others and adapter in layer.active_adapters:
        raise ValueError(
            f"layer {name!r}: the adapters {others} are active too, and would not be saved with "
            f"the posterior of {adapter!r}; call peft_model.set_adapter({adapter!r})"
        )
    rank, alpha = layer.r[adapter], layer.lora_alpha[adapter]
    configured = alpha / (math.sqrt(rank) if layer.use_rslora.get(adapter) else rank)
    if not math.isclose(layer.scaling[adapter], configured):
        raise ValueError(
            f"layer {name!r} scales its update by {layer.scaling[adapter]:g}, but its "
            f"configuration says {configured:g}; set lora_alpha in LoraConfig in place of set_scale"
        )


def _check_parameters(net: PeftModel, adapter: str) -> None:
    # "auto" would ask the Hub for the base model's vocabulary.
    state: dict[str, Any] = get_peft_model_state_dict(
        cast(Any, net), adapter_name=adapter, save_embedding_layers=False
    )
    saved = {tensor.data_ptr() for tensor in state.values()}
    others = [f".{name}." for name in net.peft_config if name != adapter]
    unsaved = [
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad
        and not parameter.is_meta
        and parameter.data_ptr() not in saved
        and not any(other in f"{name}." for other in others)
    ]
    if unsaved:
        raise ValueError(
            f"{len(unsaved)} parameters are trained that a saved adapter does not hold, such as "
            f"{unsaved[0]!r}; name their modules in LoraConfig(modules_to_save=...), or freeze them"
        )
