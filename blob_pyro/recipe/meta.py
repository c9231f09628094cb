"""What stands for kernels on the ``meta`` device, and counts what they hold."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

# Of bitsandbytes: numbers that share a scale, and scales that share one of their own.
_BLOCK, _NESTED = 64, 256


# What checks ask of numbers, and the answer where there are none: all of them are right.
_QUESTIONS: dict[Any, Callable[[torch.Tensor], Any]] = {
    torch.ops.aten._is_all_true.default: lambda _: torch.tensor(True),
    torch.ops.aten._local_scalar_dense.default: lambda _: False,
    torch.ops.aten.nonzero.default: lambda wrong: torch.empty(0, wrong.dim(), dtype=torch.int64),
}


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, for as long as each lives.

    Checks of tensors on the ``meta`` device find nothing wrong.

    Attributes
    ----------
    peak : int
        The most at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._storages: dict[int, int] = {}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and torch.is_tensor(args[0]) and args[0].is_meta and func in _QUESTIONS:
            return _QUESTIONS[func](args[0])
        known = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        output = func(*args, **kwargs)
        for leaf in tree_leaves(output):
            # A view, or what was written in place, is no new memory.
            if torch.is_tensor(leaf) and _key(leaf) not in known:
                self._add(leaf.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._now -= self._storages.pop(key)


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps for its backward pass: inputs, output, and a number a query."""

    @staticmethod
    @override
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        output = torch.empty_like(query)
        normalizers = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, normalizers)
        return output

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Stand for a fused kernel of attention, as Transformers calls one."""
    output: torch.Tensor = _FusedAttention.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None


class QuantisedLinear(nn.Linear):
    """Stands for a layer of bitsandbytes: what it keeps, and the float weight that comes and goes.

    Parameters
    ----------
    layer
        The layer that is quantised, on the ``meta`` device.
    bits
        4 or 8.
    """

    def __init__(self, layer: nn.Linear | Conv1D, bits: int) -> None:
        shape = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.mT.shape
        super().__init__(shape[1], shape[0], bias=False, device="meta", dtype=layer.weight.dtype)
        self.float_dtype = layer.weight.dtype
        self.bias = layer.bias
        whole = torch.uint8 if bits == 4 else torch.int8
        packed = torch.empty(shape[0], shape[1] * bits // 8, dtype=whole, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        blocks = -(-shape.numel() // _BLOCK)
        # Scales of rows; or of blocks, in a byte each, and what these are read by.
        scales = blocks + 4 * -(-blocks // _NESTED) + 4 * (16 + 256) if bits == 4 else 4 * shape[0]
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"))

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        shape = (self.out_features, self.in_features)
        product: torch.Tensor = _QuantisedProduct.apply(input, self.weight, shape)
        return product if self.bias is None else product + self.bias


class _QuantisedProduct(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return nn.functional.linear(x, _float_weight(packed, shape, x.dtype))

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (packed,) = gradients, ctx.saved_tensors
        return gradient @ _float_weight(packed, ctx.shape, gradient.dtype), None, None


def _float_weight(packed: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    # Eight bits are multiplied by their scale in float32.
    first = torch.float32 if packed.dtype == torch.int8 else dtype
    return torch.empty(shape, dtype=first, device=packed.device).to(dtype)
