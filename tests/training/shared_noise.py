"""Runs whose noise follows from the batch, so that processes can be compared with accumulation.

Under ``accelerate launch`` it is a program of two processes, which writes what they ended with.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyro
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import SequenceClassifier
from blob_pyro.posthoc import ivon, swag
from blob_pyro.training import TrainingConfig, fit, sharded_predictive

# Five batches of two and one of one: the last micro-batch of an epoch counts half.
TOKENS = range(5, 16)
DATA = Dataset.from_dict({"text": ["a" * (1 + n % 3) for n in TOKENS], "token": [*TOKENS]})
HELD_OUT = Dataset.from_dict({"text": ["a" * (1 + n % 4) for n in range(7)], "token": [*range(7)]})
RUNS: dict[str, dict[str, Any]] = {
    "joint": {},
    "kl_optim": {"kl_learning_rate": 0.1, "scale_updates": "kl_optim"},
    "both": {"kl_learning_rate": 0.1, "scale_updates": "both"},
}
Tensors = dict[str, torch.Tensor]


def collate(examples: list[dict[str, Any]]) -> Tensors:
    tokens = torch.tensor([example["token"] for example in examples])
    # Different tokens, so that what attends has a gradient.
    return {"input_ids": tokens[:, None] + torch.tensor([1, 3, 8, 4]), "labels": tokens % 2}


class BatchNoiseGuide(LowRankGaussianGuide):
    """Draws (and lets flipout draw) what the batch says, in whichever process."""

    def forward(self, *args: Any, **batch: Any) -> Tensors:
        if batch:
            torch.manual_seed(int(batch["input_ids"][:, 0].square().sum()))
        return super().forward(*args, **batch)


def program(**options: Any) -> tuple[SequenceClassifier, BatchNoiseGuide, ReweightedTrace_ELBO]:
    pyro.set_rng_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=40, intermediate_size=24, num_labels=2, initializer_range=0.2, **sizes,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    net = get_peft_model(BertForSequenceClassification(config), lora)
    model = SequenceClassifier(net, num_data=len(DATA), **options)
    guide = BatchNoiseGuide(model, init_scale=0.09)
    return model, guide, ReweightedTrace_ELBO(3, kl_scale=0.1, per_datum=True)


def run(name: str, accumulation_steps: int, **options: Any) -> tuple[Tensors, list[Any]]:
    """Train for ten steps: what was learned, and the records."""
    model, guide, elbo = program(**options)
    config = TrainingConfig(
        num_steps=10, batch_size=2, learning_rate=1e-2, accumulation_steps=accumulation_steps,
        validate_every=4,
        **RUNS[name],
    )  # fmt: skip
    records = fit(model, guide, elbo, DATA, collate, config, validation=HELD_OUT)
    learned = {**dict(model.named_parameters()), **guide.state_dict()}
    return {key: tensor.detach().clone() for key, tensor in learned.items()}, records


def fit_posthoc(accumulation_steps: int) -> Tensors:
    """Walk SWAG's path, and take IVON's steps if it is installed."""
    settings = {"num_steps": 6, "batch_size": 2, "flipout": False, "learning_rate": 1e-2}
    config = TrainingConfig(accumulation_steps=accumulation_steps, **settings)
    model, _, elbo = program()
    path = swag(
        model, PointEstimateGuide(model), elbo, DATA, collate, config,
        collect_every=2, num_deviations=3,
    )  # fmt: skip
    found = {f"swag/{name}": value for name, value in path.state_dict().items()}
    if find_spec("ivon") is not None:
        model, _, elbo = program()
        guide = ivon(model, elbo, DATA, collate, config, init_scale=0.05, beta2=0.9)
        found |= {f"ivon/{name}": value for name, value in guide.state_dict().items()}
    return found


def predict(num_data: int) -> Tensors:
    """Predict examples; also give the tokens of those that this process has read."""
    model, guide, _ = program()
    data, read = HELD_OUT.select(range(num_data)), []

    def noting(examples: list[dict[str, Any]]) -> Tensors:
        # A single example is only measured.
        read.extend(example["token"] for example in examples if len(examples) > 1)
        return collate(examples)

    logits = sharded_predictive(model, guide, data, noting, num_samples=3)["logits"]
    return {"logits": logits, "read": torch.tensor(read)}


def main(folder: Path) -> None:
    state, results = Accelerator(), {}
    for name in RUNS:
        learned, records = run(name, accumulation_steps=1)
        for key, tensor in learned.items():
            results[f"{name}/learned/{key}"] = tensor
        terms = [[r.loss, r.nll, r.kl, r.grad_norm, r.validation_nll or 0.0] for r in records]
        results[f"{name}/records"] = torch.tensor(terms, dtype=torch.float64)
    # The KL of a hyper-prior is estimated from a draw, another one in each process.
    learned, _ = run("both", accumulation_steps=1, prior=HierarchicalNormalPrior(0.2))
    results |= {f"hyper/{state.process_index}/{key}": value for key, value in learned.items()}
    for count in (7, 1):
        predicted = predict(count)
        results[f"predicted/{count}"] = predicted["logits"]
        results[f"read/{count}/{state.process_index}"] = predicted["read"]
    results |= {f"posthoc/{state.process_index}/{k}": v for k, v in fit_posthoc(1).items()}
    # With an ordinary guide, what comes next says whether the noise was the same.
    model, _, elbo = program()
    fit(
        model,
        LowRankGaussianGuide(model),
        elbo,
        DATA,
        collate,
        TrainingConfig(num_steps=1, batch_size=2),
    )
    results[f"noise/{state.process_index}"] = torch.rand(3)
    for part in gather_object([results]):
        results |= part
    if state.is_main_process:
        save_file({key: value.contiguous() for key, value in results.items()}, folder / "two")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
