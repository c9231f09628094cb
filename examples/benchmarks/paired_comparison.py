"""What the benchmarks share: networks to compare on, turns, medians of paired ratios, slopes."""

import copy
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyro
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from blob_pyro.networks import SMOLLM2, load_causal_lm

LABEL_TOKENS = [7, 9, 11, 13]
Name = TypeVar("Name", bound=Hashable)


def tiny_network(num_layers: int = 2) -> PeftModel:
    """Make a random Llama so small that its arithmetic costs next to nothing."""
    return random_network(width=32, num_layers=num_layers)


def random_network(width: int, num_layers: int, rank: int = 8) -> PeftModel:
    """Make a random Llama with an adapter on the query and value projections."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=3 * width // 2,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        # Wide, so that the answer depends on what it reads.
        initializer_range=0.2,
    )
    return with_adapter(LlamaForCausalLM(config), rank)


def smollm2_network(dtype: torch.dtype = torch.float32) -> PeftModel:
    """Load SmolLM2-135M with an adapter of rank 8 on the query and value projections."""
    return with_adapter(load_causal_lm(SMOLLM2, dtype), rank=8)


def with_adapter(network: PreTrainedModel, rank: int) -> PeftModel:
    """Put an adapter on the query and value projections."""
    targets = ["q_proj", "v_proj"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets)
    return get_peft_model(network, lora)


def shared_copy(net: PeftModel) -> PeftModel:
    """Copy a network but for the weights that are not trained, which both then hold."""
    frozen = {id(each): each for each in net.parameters() if not each.requires_grad}
    return copy.deepcopy(net, frozen)


def random_batch(net: PeftModel, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """Make texts of equal length out of random tokens, each with one of four labels."""
    input_ids = torch.randint(net.config.vocab_size, (rows, tokens)).to(net.device)
    labels = torch.randint(len(LABEL_TOKENS), (rows,)).to(net.device)
    mask = torch.ones_like(input_ids)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def begin(seed: int, device: str = "cpu") -> None:
    """Seed everything, and print where and how the numbers below were made."""
    pyro.set_rng_seed(seed)
    print(
        f"{_processor(device)}, CPUs: {os.cpu_count()}, threads: {torch.get_num_threads()}, "
        f"torch {torch.__version__}, seed {seed}\n"
    )


def _processor(device: str) -> str:
    if device != "cpu":
        return torch.get_device_module(device).get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds_in_turns(
    variants: dict[Name, Callable[[], object]],
    repeats: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Time every variant once a round, in a new order each round.

    What slows the machine down for a while then meets all variants alike, and the ratio of two
    variants within a round is free of it.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(warm_up + repeats):
        for name in random.sample(names, len(names)):
            begun = clock()
            variants[name]()
            if torch.accelerator.is_available():  # which may still be at work
                torch.accelerator.synchronize()
            if turn >= warm_up:
                seconds[name].append(clock() - begun)
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


def round_slopes(x: Sequence[float], rounds: Sequence[Sequence[float]]) -> list[float]:
    """Fit a line to each round, which holds one value for each ``x``; give the slopes.

    What slows a whole round down then cancels, as in a paired ratio.
    """
    return np.polyfit(x, np.transpose(rounds), deg=1)[0].tolist()


def with_interval(estimate: tuple[float, float, float], digits: int = 3) -> str:
    """Write an estimate and the ends of its interval."""
    median, low, high = (f"{value:z.{digits}f}" for value in estimate)
    return f"{median} ({low} to {high})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |")
    print()
