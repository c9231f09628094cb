"""How much memory training will take, found out on the ``meta`` device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.infer.data_pass import evaluation_mode
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks import Quantization
from blob_pyro.networks.loading import has_encoder, load_config
from blob_pyro.networks.quantization import quantised_layers
from blob_pyro.poutine import flipout, in_turn
from blob_pyro.recipe.meta import HeldBytes, QuantisedLinear, fused_attention
from blob_pyro.recipe.network import has_head, lora_config

_ATTENTION = "blob_pyro_fused"


@dataclass(frozen=True)
class MemoryEstimate:
    """Parameters, and the bytes that one process holds in a training step and in a prediction.

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
    gathered
        Bytes of the layers that a process has put together at a time, of a divided network.
    predicted
        Bytes beside weights, posterior and what is gathered, at the peak of a prediction.
    """

    base_parameters: int
    trained_parameters: int
    weights: int
    posterior: int
    optimizer: int
    activations: int
    checkpointed: int
    gathered: int
    predicted: int

    def total(self, *, checkpointing: bool = False) -> int:
        """Add up the bytes of a step, with or without gradient checkpointing."""
        step = self.checkpointed if checkpointing else self.activations
        return self.weights + self.posterior + self.optimizer + self.gathered + step

    @property
    def prediction(self) -> int:
        """Bytes of a prediction, in all."""
        return self.weights + self.posterior + self.gathered + self.predicted


def estimate_memory(
    config: str | PretrainedConfig,
    target_modules: Sequence[str] | None = None,
    *,
    rank: int = 8,
    batch_size: int = 4,
    sequence_length: int = 300,
    dtype: torch.dtype = torch.bfloat16,
    quantization: Quantization | None = None,
    num_shards: int = 1,
    num_samples: int = 10,
) -> MemoryEstimate:
    """Estimate the memory of a training step of BLoB with flipout, AdamW and an answer a text.

    The step is run on the ``meta`` device, whose tensors have shapes and no content, and every
    tensor's storage is counted from when it is made to when it is dropped.  Attention is taken to
    be fused, so that no scores are kept.  Not counted: what a kernel needs inside, the allocator's
    waste, and the device's own context.

    Parameters
    ----------
    config
        Configuration of a causal LM or an encoder, or where it is: a ``config.json``, a folder, a
        Hub name, or a wheel's name as in :func:`blob_pyro.networks.load_causal_lm`.  An encoder
        gets a head of as many classes as its configuration says.
    target_modules
        Layers that get an adapter; None takes PEFT's own for the architecture.
    rank
        LoRA rank.
    batch_size, sequence_length
        Examples a step, and tokens of each.
    dtype
        Of the base weights; posterior and ``lora_B`` are float32, as PEFT makes them.
    quantization
        Of the network's layers, as in :func:`blob_pyro.recipe.fine_tune`.
    num_shards
        Processes among which the frozen weights of the layers are divided, as
        ``blob_pyro.networks.sharding.place`` does by FSDP.
    num_samples
        Draws that share a pass of a prediction, of as many examples.

    Returns
    -------
    MemoryEstimate
        Bytes of one process.

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
    sizes = {
        **{"rank": rank, "batch_size": batch_size, "sequence_length": sequence_length},
        **{"num_shards": num_shards, "num_samples": num_samples},
    }
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    known = config if isinstance(config, PretrainedConfig) else load_config(config)
    layers = None if target_modules is None else tuple(target_modules)
    shape = (batch_size, sequence_length)
    make = partial(_program, known, rank, layers, dtype, quantization)
    program = make()
    trained = [p for part in program for p in part.parameters() if p.requires_grad]
    posterior = sum(parameter.nbytes for parameter in trained)
    base = [p for p in program[0].parameters() if not p.requires_grad]
    buffers = [b for n, b in program[0].named_buffers() if not n.endswith(".initial_weight")]
    stack = _layers(program[0].network) if num_shards > 1 else [0]
    divided = sum(stack)
    quantised = [m for m in program[0].modules() if isinstance(m, QuantisedLinear)]
    packed = sum(m.out_features * m.in_features - m.weight.numel() for m in quantised)
    return MemoryEstimate(
        base_parameters=sum(parameter.numel() for parameter in base) + packed,
        trained_parameters=sum(parameter.numel() for parameter in trained),
        weights=sum(t.nbytes for t in (*base, *buffers)) - divided + divided // num_shards,
        # The guide starts from a copy of lora_A that the network keeps.
        posterior=posterior + sum(m.nbytes for m in program[1].M.parameters()),
        optimizer=2 * posterior,
        # FSDP holds a layer as it came together, as it is used, and the next one.
        gathered=3 * max(stack, default=0),
        activations=_peak(program, shape),
        checkpointed=_peak(make(), shape, checkpointing=True),
        predicted=_predicted(program, shape, num_samples),
    )


Program = tuple[LabelTokenClassifier | SequenceClassifier, LowRankGaussianGuide]


def _program(
    config: PretrainedConfig,
    rank: int,
    target_modules: tuple[str, ...] | None,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> Program:
    AttentionInterface.register(_ATTENTION, fused_attention)
    kind = AutoModelForSequenceClassification if has_encoder(config) else AutoModelForCausalLM
    with torch.device("meta"):
        network = kind.from_config(
            config, dtype=dtype, attn_implementation=_ATTENTION, trust_remote_code=False
        )
        if quantization is not None:
            for name in quantised_layers(network):
                layer = cast(nn.Linear, network.get_submodule(name))
                network.set_submodule(name, QuantisedLinear(layer, int(quantization[0])))
        net = get_peft_model(network, lora_config(network, rank, 2 * rank, target_modules))
        model: LabelTokenClassifier | SequenceClassifier
        if has_head(network):
            model = SequenceClassifier(net, num_data=1)
        else:
            model = LabelTokenClassifier(net, label_token_ids=[0, 1], num_data=1)
        return model.train(), LowRankGaussianGuide(model)


def _peak(program: Program, shape: tuple[int, int], *, checkpointing: bool = False) -> int:
    model, guide = program
    if checkpointing:
        model.gradient_checkpointing_enable()
    step = ReweightedTrace_ELBO(num_batches=1, per_datum=True)(model, guide)
    batch = _batch(shape)
    labels = batch["input_ids"][:, 0]
    with in_turn(), HeldBytes() as held, flipout():
        step(**batch, labels=labels).backward()
    return held.peak


def _predicted(program: Program, shape: tuple[int, int], num_samples: int) -> int:
    model, guide = program
    with torch.no_grad(), evaluation_mode(model), HeldBytes() as held:
        # That the rows stand first, only values could show.
        model._example_axes.update(dict.fromkeys(model.sites, 0))
        model.logits_under(guide.draws(num_samples), **_batch(shape))
    return held.peak


def _batch(shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    tokens = torch.zeros(shape, dtype=torch.long, device="meta")
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _layers(network: nn.Module) -> list[int]:
    """Give the bytes of the frozen weights of each layer of the stack."""
    stacks = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [
        sum(p.nbytes for p in layer.parameters() if not p.requires_grad)
        for stack in stacks
        for layer in stack
    ]
