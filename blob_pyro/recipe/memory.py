"""How much memory training will take, found out on the ``meta`` device."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from peft import get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)
from typing_extensions import override

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks.loading import has_encoder
from blob_pyro.poutine import flipout
from blob_pyro.recipe.network import has_head, lora_config

_ATTENTION = "blob_pyro_fused"


@dataclass(frozen=True)
class MemoryEstimate:
    """Parameters, and the bytes that one training step holds.

    Parameters
    ----------
    base_parameters
        Frozen parameters of the network.
    trained_parameters
        Those of the posterior, of ``lora_B`` and of an encoder's head.
    weights
        Bytes of what is frozen.
    posterior
        Bytes of the trained parameters.
    optimizer
        Bytes of AdamW's two moments.
    activations
        Bytes beside them at the peak of a step, gradients included.
    checkpointed
        The same with gradient checkpointing.
    """

    base_parameters: int
    trained_parameters: int
    weights: int
    posterior: int
    optimizer: int
    activations: int
    checkpointed: int

    def total(self, *, checkpointing: bool = False) -> int:
        """Add up the bytes of a step, with or without gradient checkpointing."""
        step = self.checkpointed if checkpointing else self.activations
        return self.weights + self.posterior + self.optimizer + step


def estimate_memory(
    config: str | PretrainedConfig,
    target_modules: Sequence[str] | None = None,
    *,
    rank: int = 8,
    batch_size: int = 4,
    sequence_length: int = 300,
    dtype: torch.dtype = torch.bfloat16,
) -> MemoryEstimate:
    """Estimate the memory of a training step of BLoB with flipout, AdamW and an answer a text.

    The step is run on the ``meta`` device, whose tensors have shapes and no content, and every
    tensor's storage is counted from when it is made to when it is dropped.  Attention is taken to
    be fused, so that no scores are kept.  Not counted: what a kernel needs inside, the allocator's
    waste, and the device's own context.

    Parameters
    ----------
    config
        Configuration of a causal LM or an encoder, or where it is: a ``config.json``, a folder or a
        Hub name.  An encoder gets a head of as many classes as its configuration says.
    target_modules
        Layers that get an adapter; None takes PEFT's own for the architecture.
    rank
        LoRA rank.
    batch_size, sequence_length
        Examples a step, and tokens of each.
    dtype
        Of the base weights; posterior and ``lora_B`` are float32, as PEFT makes them.

    Returns
    -------
    MemoryEstimate
        Bytes.

    Raises
    ------
    ValueError
        If a size is below 1, or no layer has one of the names.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> config = LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64,
    ...                      num_hidden_layers=2, num_attention_heads=2)
    >>> estimate = estimate_memory(config, ["q_proj"], rank=4, dtype=torch.float32)
    >>> estimate.trained_parameters == 2 * (2 * 4 * 32 + 32 * 4)
    True
    >>> estimate.checkpointed < estimate.activations
    True
    """
    sizes = {"rank": rank, "batch_size": batch_size, "sequence_length": sequence_length}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    known = config if isinstance(config, PretrainedConfig) else _config(config)
    layers = None if target_modules is None else tuple(target_modules)
    shape = (batch_size, sequence_length)
    program = _program(known, rank, layers, dtype)
    trained = _trained(program)
    posterior = sum(parameter.nbytes for parameter in trained)
    base = [p for p in program[0].parameters() if not p.requires_grad]
    buffers = [b for n, b in program[0].named_buffers() if not n.endswith(".initial_weight")]
    return MemoryEstimate(
        base_parameters=sum(parameter.numel() for parameter in base),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        weights=sum(tensor.nbytes for tensor in (*base, *buffers)),
        # The guide starts from a copy of lora_A that the network keeps.
        posterior=posterior + sum(m.nbytes for m in program[1].M.parameters()),
        optimizer=2 * posterior,
        activations=_peak(*program, shape),
        checkpointed=_peak(*_program(known, rank, layers, dtype), shape, checkpointing=True),
    )


def _config(name: str) -> PretrainedConfig:
    return cast(PretrainedConfig, AutoConfig.from_pretrained(name, trust_remote_code=False))


Program = tuple[LabelTokenClassifier | SequenceClassifier, LowRankGaussianGuide]


def _program(
    config: PretrainedConfig, rank: int, target_modules: tuple[str, ...] | None, dtype: torch.dtype
) -> Program:
    AttentionInterface.register(_ATTENTION, _fused_attention)
    kind = AutoModelForSequenceClassification if has_encoder(config) else AutoModelForCausalLM
    with torch.device("meta"):
        network = kind.from_config(
            config, dtype=dtype, attn_implementation=_ATTENTION, trust_remote_code=False
        )
        net = get_peft_model(network, lora_config(network, rank, 2 * rank, target_modules))
        model: LabelTokenClassifier | SequenceClassifier
        if has_head(network):
            model = SequenceClassifier(net, num_data=1)
        else:
            model = LabelTokenClassifier(net, label_token_ids=[0, 1], num_data=1)
        return model.train(), LowRankGaussianGuide(model)


def _trained(program: Program) -> list[torch.Tensor]:
    return [p for part in program for p in part.parameters() if p.requires_grad]


def _peak(
    model: LabelTokenClassifier | SequenceClassifier,
    guide: LowRankGaussianGuide,
    shape: tuple[int, int],
    *,
    checkpointing: bool = False,
) -> int:
    if checkpointing:
        model.gradient_checkpointing_enable()
    step = ReweightedTrace_ELBO(num_batches=1, per_datum=True)(model, guide)
    tokens = torch.zeros(shape, dtype=torch.long, device="meta")
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens[:, 0]}
    with pyro.validation_enabled(False), _HeldBytes() as held, flipout():
        step(**batch).backward()
    return held.peak


class _HeldBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._storages: dict[int, int] = {}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
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


def _fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _FusedAttention.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None
