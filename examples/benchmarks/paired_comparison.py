"""What the benchmarks share: networks to compare on, turns, and medians of paired ratios."""

import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyro
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from blob_pyro.base_model import SMOLLM2, load_causal_lm

LABEL_TOKENS = [7, 9, 11, 13]


def tiny_network(num_layers: int = 2) -> PeftModel:
    """Make a random Llama so small that its arithmetic costs next to nothing."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        # Wide, so that the answer depends on what it reads.
        initializer_range=0.2,
    )
    return _with_adapter(LlamaForCausalLM(config))


def smollm2_network() -> PeftModel:
    """Load SmolLM2-135M with an adapter of rank 8 on the query and value projections."""
    return _with_adapter(load_causal_lm(SMOLLM2))


def _with_adapter(network: PreTrainedModel) -> PeftModel:
    targets = ["q_proj", "v_proj"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=targets)
    return get_peft_model(network, lora)


def random_batch(net: PeftModel, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """Make texts of equal length out of random tokens, each with one of four labels."""
    input_ids = torch.randint(net.config.vocab_size, (rows, tokens))
    labels = torch.randint(len(LABEL_TOKENS), (rows,))
    mask = torch.ones_like(input_ids)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def begin(seed: int) -> None:
    """Seed everything, and print where and how the numbers below were made."""
    pyro.set_rng_seed(seed)
    print(
        f"{_processor()}, CPUs: {os.cpu_count()}, threads: {torch.get_num_threads()}, "
        f"torch {torch.__version__}, seed {seed}\n"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds_in_turns(
    variants: dict[str, Callable[[], object]], repeats: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Time every variant once a round, in a new order each round.

    What slows the machine down for a while then meets all variants alike, and the ratio of two
    variants within a round is free of it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(warm_up + repeats):
        for name in random.sample(names, len(names)):
            begun = time.perf_counter()
            variants[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def paired(
    combine: Callable[[float, float], float], left: Sequence[float], right: Sequence[float]
) -> list[float]:
    """Combine the two times of every round, as by ``operator.truediv``."""
    return [combine(one, other) for one, other in zip(left, right, strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Give the median and the order statistics that hold the true one with at least 95 %.

    The number of values below the true median is binomial, whatever their distribution.  Of
    fewer than six values even the extremes hold it less often.
    """
    ordered = sorted(values)
    cut = 0
    while sum(math.comb(len(ordered), i) for i in range(cut + 1)) <= 0.025 * 2 ** len(ordered):
        cut += 1
    outer = max(cut - 1, 0)
    return statistics.median(ordered), ordered[outer], ordered[-1 - outer]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |")
    print()
