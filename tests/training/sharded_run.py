"""A tiny Llama in two processes, each of which holds a part of it: fits, saves, predicts, resumes.

Run by torchrun, with accelerate told of FSDP, it writes what it ended with.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import shared_noise
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from safetensors.torch import save_file
from shared_noise import DATA, HELD_OUT, RUNS, BatchNoiseGuide, Tensors
from torch.distributed.tensor import DTensor

from blob_pyro import save_posterior
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import SequenceClassifier
from blob_pyro.testing import tiny_network
from blob_pyro.training import (
    CheckpointConfig,
    StepRecord,
    TrainingConfig,
    TrainingInterruptedError,
    fit,
    sharded_predictive,
)


def collate(examples: list[dict[str, Any]]) -> Tensors:
    batch = shared_noise.collate(examples)
    # Past the token that pads.
    return {**batch, "input_ids": batch["input_ids"] + 1}


def program() -> tuple[SequenceClassifier, BatchNoiseGuide]:
    pyro.set_rng_seed(0)
    model = SequenceClassifier(tiny_network("llama", "SEQ_CLS"), num_data=len(DATA))
    # Two processes start differently, as with a head that a checkpoint lacks, until they are made
    # alike.
    process = PartialState().process_index
    torch.manual_seed(process)
    model.network.get_input_embeddings().weight.data.mul_(1 + process)
    return model, BatchNoiseGuide(model, init_scale=0.09)


def run(
    name: str, accumulation_steps: int, stop: int = -1, **options: Any
) -> tuple[SequenceClassifier, BatchNoiseGuide, Tensors]:
    """Train for ten steps: the program, and what it learned."""
    model, guide = program()
    config = TrainingConfig(
        num_steps=10, batch_size=2, learning_rate=1e-2, accumulation_steps=accumulation_steps,
        validate_every=4, gradient_checkpointing=name == "both", **RUNS[name],
    )  # fmt: skip

    def on_step(record: StepRecord) -> None:
        if record.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    elbo = ReweightedTrace_ELBO(3, kl_scale=0.1, per_datum=True)
    fit(
        model, guide, elbo, DATA, collate, config,
        validation=HELD_OUT, on_step=on_step, **options,
    )  # fmt: skip
    return model, guide, learned(model, guide)


def learned(model: SequenceClassifier, guide: BatchNoiseGuide) -> Tensors:
    points = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: p.detach().clone() for name, p in {**points, **guide.state_dict()}.items()}


def predict(model: SequenceClassifier, guide: BatchNoiseGuide) -> torch.Tensor:
    """Predict seven examples, which no two processes share evenly, and one."""
    logits = [
        sharded_predictive(model, guide, HELD_OUT.select(range(count)), collate, 3, 0)["logits"]
        for count in (7, 1)
    ]
    return torch.cat(logits, dim=1)


def main(folder: Path) -> None:
    accelerator = Accelerator()
    results: Tensors = {}
    for name in RUNS:
        model, guide, found = run(name, accumulation_steps=1)
        results |= {f"{name}/{key}": value for key, value in found.items()}
    # The last program: each layer's frozen weights are in halves, nothing else is.
    divided = [p for p in model.network.parameters() if isinstance(p, DTensor)]
    assert sum(p.to_local().numel() for p in divided) == sum(p.numel() for p in divided) // 2
    assert {name for name, p in model.network.named_parameters() if isinstance(p, DTensor)} == {
        name
        for name, p in model.network.named_parameters()
        if ".layers." in name and "lora_" not in name
    }
    results["predicted"] = predict(model, guide)
    if accelerator.is_main_process:
        save_posterior(folder / "posterior", model, guide)
    where = CheckpointConfig(folder / "run")
    with suppress(TrainingInterruptedError):
        run("joint", 1, stop=4, checkpoints=where)
    _, _, resumed = run("joint", 1, checkpoints=replace(where, resume=True))
    results |= {f"resumed/{key}": value for key, value in resumed.items()}
    alike = gather_object([results])
    assert all(torch.equal(alike[0][key], alike[1][key]) for key in results)
    if accelerator.is_main_process:
        save_file({key: value.contiguous() for key, value in results.items()}, folder / "two")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
