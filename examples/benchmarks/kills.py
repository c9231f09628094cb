"""Kill a training run at random moments, resume it, and compare it with one that ran through.

Each process is killed by SIGKILL at a random moment, be it in a step, in validation or while a
checkpoint is written.  The final weights have to equal the uninterrupted run's bit for bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import SequenceClassifier
from blob_pyro.training import CheckpointConfig, TrainingConfig, fit

DATA = Dataset.from_dict({"text": ["a" * (1 + n % 7) for n in range(50)], "token": [*range(5, 55)]})


def collate(examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([example["token"] for example in examples])
    return {"input_ids": tokens[:, None].expand(-1, 8).contiguous(), "labels": tokens % 2}


def train(folder: Path, num_steps: int) -> None:
    """Run in a process of its own: train, from the newest checkpoint if there is one."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, num_labels=2,
    )  # fmt: skip
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    net = get_peft_model(BertForSequenceClassification(config), lora)
    model = SequenceClassifier(net, num_data=len(DATA))
    guide = LowRankGaussianGuide(model, init_scale=0.04)
    (folder / "training").touch()
    resume = any((folder / "checkpoints").glob("step-*"))
    records = fit(
        model,
        guide,
        ReweightedTrace_ELBO(13, kl_scale=1e-3, per_datum=True),
        DATA,
        collate,
        TrainingConfig(num_steps=num_steps, batch_size=4, kl_learning_rate=0.01, validate_every=10),
        validation=DATA.select(range(10)),
        checkpoints=CheckpointConfig(folder / "checkpoints", save_every=1, resume=resume),
    )
    learned = {**dict(model.named_parameters()), **guide.state_dict()}
    losses = torch.tensor([record.loss for record in records], dtype=torch.float64)
    save_file({"losses": losses, **{k: v.detach() for k, v in learned.items()}}, folder / "end")


def start(folder: Path, num_steps: int) -> multiprocessing.Process:
    """Start a process that trains, and wait until it does."""
    folder.mkdir(exist_ok=True)
    (folder / "training").unlink(missing_ok=True)
    # A fork has imported everything already, so that kills hit the training.
    process = multiprocessing.get_context("fork").Process(target=train, args=(folder, num_steps))
    process.start()
    while not (folder / "training").exists() and process.is_alive():
        time.sleep(0.001)
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join()
    assert process.exitcode == 0, process.exitcode


def newest(folder: Path) -> int | None:
    saved = sorted((folder / "checkpoints").glob("step-*"))
    return int(saved[-1].stem.removeprefix("step-")) if saved else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-kills", type=int, default=25)
    parser.add_argument("--num-steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke-test", action="store_true", help="two kills of a short run")
    arguments = parser.parse_args()
    num_kills, num_steps = arguments.num_kills, arguments.num_steps
    if arguments.smoke_test:
        num_kills, num_steps = 2, 10
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), num_kills, num_steps, random.Random(arguments.seed))


def compare(folder: Path, num_kills: int, num_steps: int, chance: random.Random) -> None:
    whole = start(folder / "whole", num_steps)
    began = time.monotonic()
    finish(whole)
    seconds = time.monotonic() - began
    steps = []
    for _ in range(num_kills):
        process = start(folder / "killed", num_steps)
        # On average all kills together come before the run would be through.
        process.join(timeout=chance.uniform(0, 1.6 * seconds / num_kills))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        steps.append(newest(folder / "killed"))
    finish(start(folder / "killed", num_steps))
    ends = [load_file(folder / name / "end") for name in ("whole", "killed")]
    different = [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])]
    print(f"{num_steps} steps in {seconds:.1f} s, {len(steps)} kills")
    print(f"newest checkpoint after each: {steps}")
    print(f"{len(ends[0]) - len(different)} of {len(ends[0])} tensors are equal bit for bit")
    assert not different, different


if __name__ == "__main__":
    main()
