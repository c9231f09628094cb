"""Base layers with quantised weights: which are right, and what makes others so."""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from typing_extensions import override

# Transformers dequantises what it reads from a GGUF file.
_METHODS = ("bitsandbytes", "torchao", "gguf")


def check_quantization(config: object) -> None:
    """Raise a ``ValueError`` if a network's weights are quantised in a way that is not known here.

    Parameters
    ----------
    config
        Configuration of the network.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check_quantization(SimpleNamespace(quantization_config={"quant_method": "gptq"}))
    Traceback (most recent call last):
    ...
    ValueError: the base model is quantised by 'gptq'; what is known here is bitsandbytes \
(quantization='4bit' or '8bit') and torchao's Int8WeightOnlyConfig, so load the original with one
    """
    given: Any = getattr(config, "quantization_config", None)
    found = given if isinstance(given, Mapping) else vars(given or object)
    method = getattr(found.get("quant_method"), "value", found.get("quant_method"))
    if method not in (None, *_METHODS):
        raise ValueError(
            f"the base model is quantised by {method!r}; what is known here is bitsandbytes "
            "(quantization='4bit' or '8bit') and torchao's Int8WeightOnlyConfig, so load the "
            "original with one"
        )


def use_dequantised_weights(network: nn.Module) -> None:
    """Let each quantised layer give the product with its dequantised weight, always, in place.

    Left to itself, an 8-bit layer of bitsandbytes rounds its inputs as well, but for columns that
    are large in some row of the batch: a text's answer would depend on the texts beside it.  A
    4-bit layer computes in bfloat16 on some CPUs once it is evaluated, and has no gradient then.

    Parameters
    ----------
    network
        Any network.

    Raises
    ------
    ValueError
        If a layer can't be made to do so.
    """
    check_quantization(getattr(network, "config", None))
    bnb: Any = sys.modules.get("bitsandbytes")
    for name, layer in network.named_modules():
        if bnb is not None and isinstance(layer, bnb.nn.Linear4bit):
            # This turns the layout of those CPUs back.
            layer.state_dict()
            layer.support_avx512bf16_for_cpu = False
        elif bnb is not None and isinstance(layer, bnb.nn.Linear8bitLt):
            if layer.state.has_fp16_weights:
                raise ValueError(
                    f"layer {name!r} rounds its float weights anew at each pass; load the network "
                    "with llm_int8_has_fp16_weight=False"
                )
            layer.__class__ = _dequantising(bnb.nn.Linear8bitLt)
        else:
            _check_torchao(name, getattr(layer, "weight", None))


def _check_torchao(name: str, weight: object) -> None:
    kind = type(weight)
    if kind.__module__.startswith("torchao") and (
        kind.__name__ != "Int8Tensor" or getattr(weight, "act_quant_kwargs", None) is not None
    ):
        raise ValueError(
            f"layer {name!r} has a {kind.__name__} of torchao, which has no right gradient or "
            "rounds the layer's inputs too; load the network with torchao's Int8WeightOnlyConfig"
        )


@cache
def _dequantising(kind: Any) -> Any:
    class Linear8bitLt(kind):
        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.weight.CB is not None:
                self.init_8bit_state()
            product = _Product.apply(x, self.weight.data, self.state.SCB.to(x.device))
            return product if self.bias is None else product + self.bias.to(product)

    return Linear8bitLt


class _Product(torch.autograd.Function):
    """``x -> x W^T`` that keeps the 8 bits of W for its backward pass, and nothing else."""

    @staticmethod
    @override
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return nn.functional.linear(x, _dequantised(weight, scale, x.dtype))

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (weight, scale) = gradients, ctx.saved_tensors
        return gradient @ _dequantised(weight, scale, gradient.dtype), None, None


def _dequantised(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # bitsandbytes keeps the largest number of each row.
    return (weight * (scale / 127)[:, None]).to(dtype)
