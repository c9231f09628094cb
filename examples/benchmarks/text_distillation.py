"""What one pass of a distilled adapter keeps of ten draws that write text.

``python examples/benchmarks/text_distillation.py --data-dir DATA``

SmolLM2 learns to write the messages of DATA's ``clinc_oos`` from their intents: 100 messages for
plain LoRA and BLoB, 200 more for the student, 150 for the test.  The NLL is in nats per token.
``--smoke-test`` takes a tiny network and the help desk.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from pyro import poutine
from transformers import PreTrainedTokenizerBase

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM
from blob_pyro.networks import SMOLLM2, load_causal_lm, load_tokenizer
from blob_pyro.posthoc import distill_text
from blob_pyro.tasks import InstructionCollator, helpdesk
from blob_pyro.testing import tiny_base_folder, tiny_tokenizer
from blob_pyro.training import TrainingConfig, fit


def messages(data_dir: Path | None, split: str) -> Dataset:
    """Give messages as responses, and their intents as prompts."""
    if data_dir is None:
        task = helpdesk()
        rows = [(row["text"], task.class_names[row["label"]]) for row in task.splits[split]]
    else:
        lines = (data_dir / "clinc_oos" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [(row["text"], row["label"]) for row in map(json.loads, lines)]
    random.Random(0).shuffle(rows)
    prompts = [f"A customer's message about {label.replace('_', ' ')}:" for _, label in rows]
    return Dataset.from_dict({"prompt": prompts, "response": [f" {text}" for text, _ in rows]})


@torch.no_grad()
def nll_per_token(
    model: CausalLM, draws: list[Any], data: Dataset, collator: InstructionCollator
) -> float:
    total, count = 0.0, 0
    for batch in collator.loader(data):
        logits = [poutine.condition(model.eval(), draw)(**batch).float() for draw in draws]
        average = torch.stack(logits).softmax(-1).mean(0)
        labels = batch["labels"][:, 1:]
        labels = labels[labels != -100]
        total -= float(average.gather(-1, labels[:, None]).log().sum())
        count += len(labels)
    return total / count


def elbo(kl_scale: float) -> ReweightedTrace_ELBO:
    return ReweightedTrace_ELBO(1, "uniform", kl_scale, per_datum=True)


def compare(
    base: str, tokenizer: PreTrainedTokenizerBase, parts: list[Dataset], steps: int
) -> None:
    train, more, test = parts
    collator = InstructionCollator(tokenizer)
    config = TrainingConfig(num_steps=steps, batch_size=8, seed=0)

    def program() -> CausalLM:
        torch.manual_seed(0)
        lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"])
        return CausalLM(get_peft_model(load_causal_lm(base), lora), num_data=len(train))

    def say(name: str, model: CausalLM, draws: list[Any]) -> None:
        print(f"| {name} | {len(draws)} | {nll_per_token(model, draws, test, collator):.3f} |")

    print("| | passes | NLL per token |\n|---|---|---|")
    model = program()
    point = PointEstimateGuide(model)
    fit(model, point, elbo(0.0), train, collator, config.changed(flipout=False))
    say("plain LoRA", model, point.draws(0))
    model = program()
    guide = LowRankGaussianGuide(model, init_scale=0.2)
    fit(model, guide, elbo(0.05), train, collator, config)
    say("BLoB, its mean", model, guide.draws(0))
    pyro.set_rng_seed(1)
    say("BLoB, ten draws", model, guide.draws(10))
    texts = Dataset.from_list([*train, *more])
    slower = config.changed(learning_rate=0.001)
    student, taught = distill_text(model, guide, texts, collator, slower, num_samples=10)
    say("student", student, taught.draws(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--num-steps", type=int, default=150)
    parser.add_argument("--smoke-test", action="store_true")
    asked = parser.parse_args()
    if not asked.smoke_test and asked.data_dir is None:
        parser.error("give --data-dir, or --smoke-test")
    written, test = messages(asked.data_dir, "train"), messages(asked.data_dir, "validation")
    if asked.smoke_test:
        base = tiny_base_folder(Path("base"), tiny_tokenizer(written["response"]))
        parts = [written.select(range(4)), written.select(range(4, 6)), test.select(range(4))]
        compare(base, load_tokenizer(base), parts, 2)
        return
    parts = [written.select(range(100)), written.select(range(100, 300)), test.select(range(150))]
    compare(SMOLLM2, load_tokenizer(SMOLLM2), parts, asked.num_steps)


if __name__ == "__main__":
    main()
