"""The cost of a training step of BLoB against one of plain LoRA with PEFT.

On SmolLM2-135M: time and peak memory of each estimator.  On a network whose arithmetic costs next
to nothing: what a step adds per latent site, by difference to plain LoRA, and Pyro's part of it, by
difference to the same mathematics written by hand.  Time is paired: all variants take turns within
one run.  Memory is that of tensors, counted allocation by allocation by torch's profiler.
``--smoke-test`` times two steps of tiny networks.
"""

import argparse
import operator
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from paired_comparison import (
    begin,
    median_interval,
    paired,
    print_table,
    random_batch,
    seconds_in_turns,
    smollm2_network,
    tiny_network,
    with_interval,
)
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from plain_and_bayesian import (
    Handler,
    TrainingStep,
    adamw,
    bayesian_steps,
    plain_loss,
    plain_step,
)
from torch import nn

from blob_pyro.poutine import flipout
from blob_pyro.training import flush_denormals

PLAIN, BY_HAND, FLIPOUT = "plain LoRA", "BLoB by hand, without Pyro", "BLoB, flipout per example"
HANDLERS: dict[str, Handler] = {
    FLIPOUT: flipout,
    "BLoB, shared draw": nullcontext,
    "BLoB, flipout per token": partial(flipout, per="token"),
}
MIB = 2**20


def training_steps(
    make_network: Callable[[], PeftModel], tokens: int, rows: int = 4
) -> dict[str, TrainingStep]:
    net = make_network()
    batch = random_batch(net, rows, tokens)
    return {PLAIN: plain_step(net, batch), **bayesian_steps(make_network(), batch, HANDLERS)}


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
        signs = _signs(scale, rows, rank, 1) * _signs(scale, rows, 1, width)
        self.drawn = self.weight + signs * (scale * torch.randn_like(scale))
        ratio = (scale / 0.2).square()
        return (ratio + (self.weight / 0.2).square() - 1 - ratio.log()).sum() / 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project each row with its own weight."""
        return torch.bmm(x, self.drawn.mT)


def _signs(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return like.new_empty(shape).bernoulli_(0.5).mul_(2).sub_(1)


def step_by_hand(net: PeftModel, tokens: int) -> TrainingStep:
    batch = random_batch(net, 4, tokens)
    layers = [module for module in net.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.lora_A["default"] = ByHand(layer.lora_A["default"].weight)

    def loss() -> torch.Tensor:
        kl = torch.stack([layer.lora_A["default"].draw(4) for layer in layers]).sum()
        return plain_loss(net, batch) + kl / 500

    return TrainingStep(net, adamw(net), loss)


def compare_cost(
    make_network: Callable[[], PeftModel], tokens: int, repeats: int, rows: int = 4
) -> None:
    steps = training_steps(make_network, tokens, rows)
    seconds = seconds_in_turns(steps, repeats)
    peaks = {name: step.peak_bytes() for name, step in steps.items()}
    resident = {name: step.resident_bytes() for name, step in steps.items()}
    table = []
    for name in steps:
        ratios = paired(operator.truediv, seconds[name], seconds[PLAIN])
        total = (resident[name] + peaks[name]) / (resident[PLAIN] + peaks[PLAIN])
        table.append(
            [
                name,
                f"{median_interval(seconds[name])[0]:.3f}",
                with_interval(median_interval(ratios)),
                f"{total:.3f}",
                f"{peaks[name] / peaks[PLAIN]:.3f}",
                f"{(resident[name] + peaks[name]) / MIB:.0f}",
            ]
        )
    print(
        f"One training step, {rows} texts of {tokens} tokens, {repeats} rounds; wanted: flipout per"
    )
    print("example at most 1.05 times plain LoRA in time and in peak memory.\n")
    header = ["", "seconds", "time, ratio (95 %)", "peak memory, ratio"]
    print_table([*header, "without weights", "peak, MiB"], table)


def compare_overhead(make_network: Callable[[], PeftModel], num_layers: int, repeats: int) -> None:
    steps = training_steps(make_network, tokens=4)
    steps[BY_HAND] = step_by_hand(make_network(), tokens=4)
    # These are differences of milliseconds, in which other processes' turns would show.
    on_cpu = steps[PLAIN].module.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    seconds = seconds_in_turns(steps, repeats, clock=clock)
    rows = []
    for name, baseline in [*((name, PLAIN) for name in (BY_HAND, *HANDLERS)), (FLIPOUT, BY_HAND)]:
        added = paired(operator.sub, seconds[name], seconds[baseline])
        # A layer has a query and a value projection.
        per_site = [1e6 * value / (2 * num_layers) for value in added]
        rows.append([name, baseline, with_interval(median_interval(per_site), digits=0)])
    print(
        f"What a step adds on a network of width 32 with {2 * num_layers} sites, {repeats} rounds, "
        f"in {'CPU' if on_cpu else 'wall'}\ntime, the optimiser's share of G included; wanted: at "
        "most 100 microseconds of Pyro,\nwhich is the last line.\n"
    )
    print_table(["", "added to", "microseconds per site and step (95 %)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    flush_denormals()
    begin(options.seed, options.device)

    def tiny(num_layers: int) -> PeftModel:
        return tiny_network(num_layers).to(options.device)

    def smollm2() -> PeftModel:
        return smollm2_network(getattr(torch, options.dtype)).to(options.device)

    if options.smoke_test:
        compare_cost(partial(tiny, 2), tokens=4, repeats=2)
        compare_overhead(partial(tiny, 2), num_layers=2, repeats=2)
    else:
        compare_cost(smollm2, tokens=64, repeats=options.repeats)
        compare_overhead(partial(tiny, 30), num_layers=30, repeats=5 * options.repeats)


if __name__ == "__main__":
    main()
