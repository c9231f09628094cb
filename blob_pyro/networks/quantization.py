"""Quantised base models: how to load one, how to know it again, and the way back."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

Quantization = Literal["4bit", "8bit"]


def check_quantization_package(quantization: str | Mapping[str, Any] | None) -> None:
    """Check that what quantises a network is installed.

    Parameters
    ----------
    quantization
        As in :func:`quantization_config`, or what :func:`quantization_of` gave.

    Raises
    ------
    ModuleNotFoundError
        If it is not.
    ValueError
        If the quantisation is unknown.

    Examples
    --------
    >>> check_quantization_package("3bit")
    Traceback (most recent call last):
    ...
    ValueError: quantization='3bit' is unknown; use '4bit' or '8bit'
    """
    if isinstance(quantization, str) and quantization not in get_args(Quantization):
        raise ValueError(f"quantization={quantization!r} is unknown; use '4bit' or '8bit'")
    named = (
        quantization.get("quant_method") if isinstance(quantization, Mapping) else "bitsandbytes"
    )
    for package in ("bitsandbytes", "torchao"):
        if quantization is not None and package == named and find_spec(package) is None:
            raise ModuleNotFoundError(
                f"the base model is to be quantised by {package}; install it with: "
                f"pip install {package}"
            )


def quantization_config(
    quantization: str, loader: Any, config: PreTrainedConfig, dtype: torch.dtype
) -> BitsAndBytesConfig:
    """Say to ``from_pretrained`` how to quantise a network: its layers, and no head or embedding.

    Parameters
    ----------
    quantization
        ``"4bit"``, bitsandbytes' NF4 whose scales are quantised too, as in QLoRA; or ``"8bit"``, a
        whole number a weight and a scale a row.
    loader
        Auto class of Transformers, which makes the network.
    config
        Configuration of the network.
    dtype
        What 4-bit layers compute in.

    Raises
    ------
    ValueError
        If the network has no stack of layers.

    References
    ----------
    Dettmers et al., "QLoRA", NeurIPS 2023, arXiv 2305.14314.
    """
    with torch.device("meta"):
        network: nn.Module = loader.from_config(config, dtype=dtype, trust_remote_code=False)
    inside = quantised_layers(network)
    outside = [name for name in _linear_layers(network) if name not in inside]
    if not inside:
        raise ValueError(
            f"quantization={quantization!r}: a {type(network).__name__} has no stack of linear "
            "layers; leave it out"
        )
    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=outside,
    )


def quantised_layers(network: nn.Module) -> list[str]:
    """Name the linear layers of a network's stack, which are those that get quantised."""
    stacks = tuple(f"{n}." for n, m in network.named_modules() if isinstance(m, nn.ModuleList))
    return [name for name in _linear_layers(network) if name.startswith(stacks)]


def _linear_layers(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, nn.Linear | Conv1D)]


def quantization_of(network: nn.Module) -> dict[str, Any] | None:
    """Give the quantisation of a network's weights as JSON values; None if they are not quantised.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_network
    >>> quantization_of(tiny_network("llama")) is None
    True
    """
    config: Any = getattr(getattr(network, "config", None), "quantization_config", None)
    if config is None:
        return None
    entries = config if isinstance(config, dict) else config.to_dict()
    found = json.loads(json.dumps(entries, default=str))
    # Transformers dequantises what it reads from a GGUF file.
    if found.get("quant_method") == "gguf":
        return None
    return {name: value for name, value in found.items() if not name.startswith("_")}


def recorded_quantization(record: Mapping[str, Any]) -> Any:
    """Make the configuration of which :func:`quantization_of` gave the entries.

    Raises
    ------
    ValueError
        If it is another than those that are known here.
    """
    method, kind = record.get("quant_method"), record.get("quant_type")
    if method == "bitsandbytes":
        return BitsAndBytesConfig.from_dict(dict(record))
    if method == "torchao":
        from torchao.core.config import config_to_dict
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        # A file may name any class of torchao's.
        if kind == {"default": config_to_dict(Int8WeightOnlyConfig())}:
            skipped = record.get("modules_to_not_convert")
            return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skipped)
    raise ValueError(
        f"it is quantised by {method!r:.80}, {kind!r:.80}, which is not loaded by its name here; "
        "load the network and pass it as base_model"
    )


def dequantised(network: PreTrainedModel) -> PreTrainedModel:
    """Put an ordinary layer of the same weights in the place of each quantised one, in place.

    Parameters
    ----------
    network
        Without adapter.

    Returns
    -------
    PreTrainedModel
        The same object, which ``save_pretrained`` writes as if it had never been quantised.
    """
    for name, layer in [*network.named_modules()]:
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear) or type(weight) is nn.Parameter:
            continue
        values = dequantize_module_weight(layer).detach()
        # A Conv1D has it the other way round.
        turned = getattr(layer, "source_cls", nn.Linear) is Conv1D
        outputs, inputs = values.shape
        with torch.device("meta"):
            made: Any = Conv1D(outputs, inputs) if turned else nn.Linear(inputs, outputs)
        made.weight = nn.Parameter(values.mT.contiguous() if turned else values, False)
        made.bias = layer.bias
        network.set_submodule(name, made.train(layer.training))
    cast(Any, network).hf_quantizer.remove_quantization_config(network)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        network.__dict__.pop(flag, None)
    return network
