"""What many posteriors over one base network take: on disk, to load and to switch to.

``python examples/benchmarks/many_posteriors.py`` writes posteriors over a random network of
SmolLM2-135M's layers, loads one after the other as an adapter of that network, and after each asks
one request of the posterior that was loaded first.  Its answer stays that of the posterior alone.
``--smoke-test`` takes three posteriors over a tiny network.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory_estimate import NETWORKS
from paired_comparison import (
    LABEL_TOKENS,
    begin,
    print_table,
    random_batch,
    with_adapter,
)
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from blob_pyro.files import load_posterior, save_posterior
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.training import flush_denormals

MIB = 2**20


def write(base: nn.Module, folders: list[Path], rank: int) -> int:
    """Save posteriors that differ; give the number of parameters that each trained."""
    model = LabelTokenClassifier(with_adapter(copy.deepcopy(base), rank), LABEL_TOKENS, 100)
    guide = LowRankGaussianGuide(model)
    heads = [value for name, value in model.network.named_parameters() if "lora_B" in name]
    for folder in folders:
        with torch.no_grad():
            for head in heads:
                head.normal_(std=0.1)
        save_posterior(folder, model, guide)
    return sum(each.numel() for each in (*guide.parameters(), *heads))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table_of_sizes(base: nn.Module, place: Path, ranks: list[int]) -> None:
    rows, numbers, sizes = [], [], []
    for rank in ranks:
        folder = place / f"rank-{rank}"
        numbers.append(write(base, [folder], rank))
        sizes.append(size(folder))
        rows.append([str(rank), f"{numbers[-1]:,}", f"{sizes[-1]:,}"])
    print_table(["rank", "trained parameters", "bytes of the folder"], rows)
    slope, start = np.polyfit(numbers, sizes, deg=1)
    print(f"{slope:.3f} bytes a trained parameter, and {start:,.0f} whatever their number.\n")


def table_of_times(base: nn.Module, place: Path, count: int) -> None:
    folders = [place / f"posterior-{number}" for number in range(count)]
    write(base, folders, rank=8)
    alone = load_posterior(folders[0], copy.deepcopy(base))
    net: Any = base
    batch = random_batch(alone[0].network, 1, 16)
    wanted, first, seconds = answer(*alone, batch), None, []
    for number, folder in enumerate(folders):
        # The machine may be busy, and all of this runs on one thread.
        begun = time.process_time()
        model, guide = load_posterior(folder, net, adapter=f"customer-{number}")
        loaded = time.process_time()
        net, first = model.network, first or (model, guide)
        net.set_adapter("customer-0")
        switched = time.process_time()
        found = answer(*first, batch)
        asked = time.process_time()
        assert torch.equal(found, wanted), f"another answer with {number + 1} posteriors"
        seconds.append((loaded - begun, switched - loaded, asked - switched))
    milliseconds = 1e3 * np.array(seconds)
    shown = [2**power - 1 for power in range(count.bit_length())]
    rows = [[str(n + 1), *(f"{value:.1f}" for value in milliseconds[n])] for n in shown]
    print_table(["posteriors", "load the last", "switch", "a request"], rows)
    slopes, starts = np.polyfit(np.arange(1, count + 1), milliseconds, deg=1)
    print("CPU milliseconds. A straight line through all, for each posterior that is there:")
    for name, slope, start in zip(("load", "switch", "request"), slopes, starts, strict=True):
        print(f"- {name}: {start:.1f} and {slope:.2f} a posterior")


def answer(model: Any, guide: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return posterior_predictive(model, guide, [batch], 10, seed=0, progress=False)["logits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--num-posteriors", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes, ranks = {**NETWORKS["SmolLM2"], "vocab_size": 512}, [4, 8, 16, 32]
    if options.smoke_test:
        sizes, ranks, options.num_posteriors = NETWORKS["small"], [4, 8], 3
    flush_denormals()
    begin(options.seed)
    base = LlamaForCausalLM(LlamaConfig(**sizes))
    with tempfile.TemporaryDirectory() as place:
        table_of_sizes(base, Path(place), ranks)
        table_of_times(base, Path(place), options.num_posteriors)


if __name__ == "__main__":
    main()
