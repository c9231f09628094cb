"""Dividing a base model that no device holds among processes, by FSDP."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType, broadcast, gather_object
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from blob_pyro.models import BayesianLora
from blob_pyro.networks.identity import frozen_tensors, keep_digests
from blob_pyro.networks.quantization import quantization_of


def fsdp_plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """Give what accelerate was told of FSDP; None if nothing.

    accelerate leaves FSDP out on CPUs, where PyTorch has it all the same: there the environment
    says what ``accelerate launch`` was told.

    Raises
    ------
    ValueError
        If it was told something that this library does not do, DeepSpeed included.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "DeepSpeed divides what is trained too, which no posterior is gathered from; divide "
            "the base model by FSDP (see docs/training.md), or use data parallelism"
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
    elif accelerator.num_processes > 1 and _is_told_of_fsdp():
        plugin = FullyShardedDataParallelPlugin()
    else:
        return None
    found = {
        "fsdp_version": (plugin.fsdp_version, 2),
        "fsdp_cpu_ram_efficient_loading": (bool(plugin.cpu_ram_efficient_loading), False),
        "fsdp_offload_params": (isinstance(plugin.cpu_offload, CPUOffloadPolicy), False),
        # The setting gradient_checkpointing does it.
        "fsdp_activation_checkpointing": (bool(plugin.activation_checkpointing), False),
    }
    for name, (value, wanted) in found.items():
        if value != wanted:
            raise ValueError(
                f"{name} is {value}, but a base model is divided with {name}: {wanted}; set it so "
                "in the file for accelerate launch (see docs/training.md)"
            )
    return plugin


def _is_told_of_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def place(model: BayesianLora, accelerator: Accelerator) -> None:
    """Move a model to the accelerator's device, divided among the processes if it was told so.

    The frozen weights of the network's layers are divided.  What is trained stays whole in every
    process, as do embeddings and head, so that guides, optimisers, checkpoints and files are those
    of one process.  What stays whole gets the first process's values, as in data parallelism.  All
    processes have to call, and to run the network together from then on.

    Parameters
    ----------
    model
        The model, the same in every process; changed in place.
    accelerator
        Says whether, by its FSDP plugin, and among whom.

    Raises
    ------
    ValueError
        If the plugin asks for what this library does not do, the network has no layers or no
        weights that can be divided, or the processes hold different weights of the layers.
    """
    plugin = fsdp_plugin(accelerator)
    if plugin is not None and not model.is_sharded:
        _shard(model.network, plugin, accelerator)
        model.to(accelerator.device)
        start_alike(p for p in model.parameters() if not isinstance(p, DTensor))
    model.to(accelerator.device)


def _shard(
    network: PeftModel, plugin: FullyShardedDataParallelPlugin, accelerator: Accelerator
) -> None:
    base = network.get_base_model()
    layers = _layers(base, plugin.transformer_cls_names_to_wrap)
    held = {parameter for layer in layers for parameter in layer.parameters()}
    divided = {name: tensor for name, tensor in frozen_tensors(base).items() if tensor in held}
    whole = [tensor.dtype for tensor in divided.values() if not tensor.is_floating_point()]
    if whole or quantization_of(base) is not None:
        raise ValueError(
            f"quantised weights{f' of {whole[0]}' if whole else ''} cannot be divided; load the "
            "base model without quantisation, in bfloat16"
        )
    digests = keep_digests(base, divided)
    if any(theirs != digests for theirs in gather_object([digests])):
        raise ValueError(
            f"the processes hold different weights of a {type(base).__name__}; load the same in "
            "all of them, or make it after the same seed"
        )
    options: dict[str, Any] = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "reshard_after_forward": plugin.reshard_after_forward,
        "ignored_params": {*network.parameters()} - {*divided.values()},
    }
    for layer in reversed(layers):
        fully_shard(layer, **options)
    # All ways into the network lead through its backbone, which lets its layers share buffers.
    fully_shard(getattr(base, "base_model", base), **options)


def _layers(base: nn.Module, names: Sequence[str] | None) -> list[nn.Module]:
    """Find the modules to divide: of the classes that are named, else that Transformers names."""
    if not names:
        own = [getattr(module, "_no_split_modules", None) or () for module in base.modules()]
        names = sorted({name for found in own for name in found})
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(
            f"a {type(base).__name__} has no layers of the classes {[*names]}, so FSDP would "
            "divide nothing; name them by fsdp_transformer_layer_cls_to_wrap, with "
            "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"
        )
    return layers


def start_alike(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the values of the first one, as data parallelism does."""
    for parameter in parameters:
        broadcast(parameter.data)


def average(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients of what is whole in every process by their mean."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), "mean")
    parts = flat.split([grad.numel() for grad in grads])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
