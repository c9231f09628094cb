"""The cost of a training step of BLoB against one of plain LoRA with PEFT.

On SmolLM2-135M: time and peak memory of each estimator.  On a network whose arithmetic costs next
to nothing: what a step adds per latent site, by difference to plain LoRA, and Pyro's part of it, by
difference to the same mathematics written by hand.  Time is paired: all variants take turns within
one run.  Memory is that of tensors, counted allocation by allocation by torch's profiler.
``--smoke-test`` times two steps of tiny networks.
"""

import argparse
import json
import operator
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from paired_comparison import (
    LABEL_TOKENS,
    begin,
    median_interval,
    paired,
    print_table,
    random_batch,
    seconds_in_turns,
    smollm2_network,
    tiny_network,
)
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout
from blob_pyro.training import flush_denormals

Batch = dict[str, torch.Tensor]
PLAIN, BY_HAND, FLIPOUT = "plain LoRA", "BLoB by hand, without Pyro", "BLoB, flipout per example"
HANDLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    FLIPOUT: flipout,
    "BLoB, shared draw": nullcontext,
    "BLoB, flipout per token": partial(flipout, per="token"),
}
MIB = 2**20


class TrainingStep(NamedTuple):
    """One way to take a gradient step: call it, or look at what it keeps in memory."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], torch.Tensor]

    def __call__(self) -> None:
        """Take the step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def resident_bytes(self) -> int:
        """Count weights, buffers and the optimiser's state."""
        state = [value for entry in self.optimizer.state.values() for value in entry.values()]
        tensors = [*self.module.parameters(), *self.module.buffers(), *state]
        return sum(tensor.nbytes for tensor in tensors)

    def peak_bytes(self) -> int:
        """Count the most that one step holds beside them."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        held = peak = 0
        allocations = (event for event in events if event["name"] == "[memory]")
        for event in sorted(allocations, key=lambda event: event["ts"]):
            held += event["args"]["Bytes"]
            peak = max(peak, held)
        return peak


def training_steps(make_network: Callable[[], PeftModel], tokens: int) -> dict[str, TrainingStep]:
    net = make_network()
    batch = random_batch(net, 4, tokens)
    plain = TrainingStep(net, _adamw(net), partial(_plain_loss, net, batch))
    model = LabelTokenClassifier(make_network(), LABEL_TOKENS, num_data=500)
    elbo = ReweightedTrace_ELBO(num_batches=125, per_datum=True)
    module = elbo(model, LowRankGaussianGuide(model))
    optimizer = _adamw(module)
    steps = {
        name: TrainingStep(module, optimizer, partial(_bayesian_loss, module, batch, handler))
        for name, handler in HANDLERS.items()
    }
    return {PLAIN: plain, **steps}


def _adamw(module: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


def _plain_loss(net: PeftModel, batch: Batch) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    # The same head: one product for the last column of all rows.
    kept = torch.tensor([batch["input_ids"].shape[1] - 1])
    logits = net(**inputs, logits_to_keep=kept, use_cache=False).logits[:, -1, LABEL_TOKENS]
    return functional.cross_entropy(logits, batch["labels"])


def _bayesian_loss(
    module: nn.Module, batch: Batch, handler: Callable[[], AbstractContextManager[Any]]
) -> torch.Tensor:
    with handler():
        return module(**batch)


class ByHand(nn.Module):
    """A projection that draws, flips signs and gives its KL as BLoB does, in plain torch."""

    def __init__(self, mean: nn.Parameter) -> None:
        super().__init__()
        # PEFT reads the dtype of an attribute of this name.
        self.weight = mean
        self.G = nn.Parameter(torch.empty_like(mean).uniform_(0.035, 0.05))
        self.drawn = mean.detach()

    def draw(self, rows: int) -> torch.Tensor:
        """Draw a weight for each row; give the KL divergence from ``Normal(0, 0.2)``."""
        scale = self.G.square()
        rank, width = scale.shape
        signs = _signs(rows, rank, 1) * _signs(rows, 1, width)
        self.drawn = self.weight + signs * (scale * torch.randn_like(scale))
        ratio = (scale / 0.2).square()
        return (ratio + (self.weight / 0.2).square() - 1 - ratio.log()).sum() / 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project each row with its own weight."""
        return torch.bmm(x, self.drawn.mT)


def _signs(*shape: int) -> torch.Tensor:
    return torch.empty(shape).bernoulli_(0.5).mul_(2).sub_(1)


def step_by_hand(net: PeftModel, tokens: int) -> TrainingStep:
    batch = random_batch(net, 4, tokens)
    layers = [module for module in net.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.lora_A["default"] = ByHand(layer.lora_A["default"].weight)

    def loss() -> torch.Tensor:
        kl = torch.stack([layer.lora_A["default"].draw(4) for layer in layers]).sum()
        return _plain_loss(net, batch) + kl / 500

    return TrainingStep(net, _adamw(net), loss)


def compare_cost(make_network: Callable[[], PeftModel], tokens: int, repeats: int) -> None:
    steps = training_steps(make_network, tokens)
    seconds = seconds_in_turns(steps, repeats)
    peaks = {name: step.peak_bytes() for name, step in steps.items()}
    resident = {name: step.resident_bytes() for name, step in steps.items()}
    rows = []
    for name in steps:
        median, low, high = median_interval(paired(operator.truediv, seconds[name], seconds[PLAIN]))
        total = (resident[name] + peaks[name]) / (resident[PLAIN] + peaks[PLAIN])
        rows.append(
            [
                name,
                f"{median_interval(seconds[name])[0]:.3f}",
                f"{median:.3f} ({low:.3f} to {high:.3f})",
                f"{total:.3f}",
                f"{peaks[name] / peaks[PLAIN]:.3f}",
                f"{(resident[name] + peaks[name]) / MIB:.0f}",
            ]
        )
    print(f"One training step, 4 texts of {tokens} tokens, {repeats} rounds; wanted: flipout per")
    print("example at most 1.05 times plain LoRA in time and in peak memory.\n")
    header = ["", "seconds", "time, ratio (95 %)", "peak memory, ratio"]
    print_table([*header, "without weights", "peak, MiB"], rows)


def compare_overhead(num_layers: int, repeats: int) -> None:
    steps = training_steps(partial(tiny_network, num_layers), tokens=4)
    steps[BY_HAND] = step_by_hand(tiny_network(num_layers), tokens=4)
    seconds = seconds_in_turns(steps, repeats)
    rows = []
    for name, baseline in [*((name, PLAIN) for name in (BY_HAND, *HANDLERS)), (FLIPOUT, BY_HAND)]:
        added = paired(operator.sub, seconds[name], seconds[baseline])
        # A layer has a query and a value projection.
        median, low, high = (1e6 * value / (2 * num_layers) for value in median_interval(added))
        rows.append([name, baseline, f"{median:.0f} ({low:.0f} to {high:.0f})"])
    print(
        f"What a step adds on a network of width 32 with {2 * num_layers} sites, {repeats} rounds,"
    )
    print("the optimiser's share of G included; wanted: at most 100 microseconds of Pyro, which is")
    print("the last line.\n")
    print_table(["", "added to", "microseconds per site and step (95 %)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    flush_denormals()
    begin(options.seed)
    if options.smoke_test:
        compare_cost(tiny_network, tokens=4, repeats=2)
        compare_overhead(num_layers=2, repeats=2)
    else:
        compare_cost(smollm2_network, tokens=64, repeats=options.repeats)
        compare_overhead(num_layers=30, repeats=5 * options.repeats)


if __name__ == "__main__":
    main()
