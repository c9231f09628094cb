"""``blob-pyro estimate`` against what a training step of SmolLM2's size really takes.

Each case is a process of its own: after its imports, the growth of its resident memory up to the
peak of the second step, as Linux counts it (``VmHWM``).  Weights are random, in float32.
``--smoke-test`` takes a small network, of which the process itself is most.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from paired_comparison import print_table
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout
from blob_pyro.recipe.memory import estimate_memory

TARGETS = ["q_proj", "v_proj"]
SMOLLM2_SIZES = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SMALL_SIZES = {**SMOLLM2_SIZES, "vocab_size": 512, "num_hidden_layers": 2}
CASES = [(4, 64), (4, 128), (8, 128)]


def resident(line: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(row for row in status if row.startswith(line)).split()[1])


def measure(sizes: dict[str, int], rows: int, tokens: int, checkpointing: bool) -> None:
    torch.set_num_threads(1)
    before = resident("VmRSS")
    net = LlamaForCausalLM(LlamaConfig(**sizes))
    net = get_peft_model(net, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=TARGETS))
    model = LabelTokenClassifier(net, label_token_ids=[0, 1], num_data=100).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    guide = LowRankGaussianGuide(model)
    module = ReweightedTrace_ELBO(num_batches=25, per_datum=True)(model, guide)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    ids = torch.randint(sizes["vocab_size"], (rows, tokens))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    for _ in range(2):
        optimizer.zero_grad()
        with flipout():
            module(**batch).backward()
        optimizer.step()
    print(json.dumps(resident("VmHWM") - before))


def main(smoke_test: bool) -> None:
    sizes = SMALL_SIZES if smoke_test else SMOLLM2_SIZES
    cases = CASES[:1] if smoke_test else CASES
    # What is freed shall go back at once, so that resident memory is memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    table = []
    for rows, tokens in cases:
        estimate = estimate_memory(
            LlamaConfig(**sizes),
            TARGETS,
            batch_size=rows,
            sequence_length=tokens,
            dtype=torch.float32,
        )
        for checkpointing in (False, True):
            case = json.dumps([sizes, rows, tokens, checkpointing])
            command = [sys.executable, __file__, "--measure", case]
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            measured = json.loads(done.stdout.splitlines()[-1])
            estimated = estimate.total(checkpointing=checkpointing)
            table.append(
                [
                    f"{rows} x {tokens}" + (", checkpointing" if checkpointing else ""),
                    f"{estimated / 2**20:.0f}",
                    f"{measured / 2**20:.0f}",
                    f"{estimated / measured:.2f}",
                ]
            )
    print_table(["step", "estimated, MiB", "measured, MiB", "ratio"], table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(*json.loads(options.measure))
    else:
        main(options.smoke_test)
