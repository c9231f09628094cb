"""``blob-pyro estimate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from blob_pyro.cli.options import Dtype
from blob_pyro.cli.terminal import print_table

if TYPE_CHECKING:
    from blob_pyro.training.memory import MemoryEstimate


def estimate(
    model: Annotated[
        str, typer.Option(help="Causal LM: config.json, local folder or Hub name; no weights.")
    ],
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 8,
    target_modules: Annotated[
        str, typer.Option(help="Layers that get an adapter, with commas.")
    ] = "q_proj,v_proj",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 4,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of each example.")] = 300,
    dtype: Annotated[Dtype, typer.Option(help="Of the base weights.")] = Dtype.bf16,
) -> None:
    """Estimate parameters and memory of a training step, without loading or downloading weights.

    Example: `blob-pyro estimate --model config.json --rank 8 --batch-size 4`
    """
    from blob_pyro.networks import torch_dtype
    from blob_pyro.training.memory import estimate_memory

    estimated = estimate_memory(
        model,
        [name.strip() for name in target_modules.split(",")],
        rank=rank,
        batch_size=batch_size,
        sequence_length=sequence_length,
        dtype=torch_dtype(dtype),
    )
    _print(estimated)


def _print(estimated: MemoryEstimate) -> None:
    print_table(
        ["parameters", ""],
        [
            ["base model, frozen", f"{estimated.base_parameters:,}"],
            ["posterior and lora_B", f"{estimated.trained_parameters:,}"],
        ],
    )
    rows = {
        "weights": (estimated.weights,) * 2,
        "posterior and lora_B": (estimated.posterior,) * 2,
        "optimiser": (estimated.optimizer,) * 2,
        "activations and gradients": (estimated.activations, estimated.checkpointed),
        "sum": (estimated.total(), estimated.total(checkpointing=True)),
    }
    print_table(
        ["memory of a step", "GiB", "with checkpointing"],
        [[name, *(f"{size / 2**30:.3f}" for size in sizes)] for name, sizes in rows.items()],
    )
