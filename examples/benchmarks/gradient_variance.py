"""The variance of the ELBO's gradient under each estimator, by batch size.

Every estimate is one forward and one backward pass over the same batch with the same parameters,
so nothing varies but the noise of the posterior.  A variance is summed over the entries of a block:
the means ``M``, the parameters ``G`` of the scales, and the deterministic ``B``.  The KL divergence
is a closed form that no draw enters, so it adds nothing.  A batch of B texts is the first B of 32.

Bias is a difference from the shared draw, whose gradient is right by construction, in standard
errors: of the expected loss, and of the derivative of the loss by the logarithm of all ``G``.

``--model tiny`` is a random Llama with wide posteriors over random texts; ``--model smollm2`` is
SmolLM2-135M after 20 steps of the demonstration's recipe, over the 32 shortest help-desk messages.
``--minutes`` bounds the run, after at least two rounds; ``--smoke-test`` makes them with ``tiny``.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired_comparison import LABEL_TOKENS, begin, print_table, random_batch, tiny_network
from pyro.infer.elbo import ELBOModule

from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier, LabelTokenClassifier
from blob_pyro.networks import SMOLLM2, load_causal_lm, load_tokenizer
from blob_pyro.poutine import flipout
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import PromptCollator, helpdesk
from blob_pyro.training import TrainingConfig, flush_denormals

Batch = dict[str, torch.Tensor]
SHARED = "shared draw"
ESTIMATORS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    SHARED: nullcontext,
    "flipout per example": flipout,
    "flipout per token": partial(flipout, per="token"),
}
BLOCKS = ("M", "G", "B")


@dataclass
class Estimates:
    """What one estimator gave for one batch, an entry a round."""

    losses: list[float] = field(default_factory=list)
    gradients: dict[str, list[torch.Tensor]] = field(
        default_factory=lambda: {block: [] for block in BLOCKS}
    )
    slopes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def variance(self, block: str) -> tuple[float, float]:
        """Give the summed variance of a block and its standard error."""
        sample = torch.stack(self.gradients[block])
        squares = (sample - sample.mean(0)).square().sum(1) * len(sample) / (len(sample) - 1)
        return float(squares.mean()), float(squares.std()) / math.sqrt(len(sample))


class Objective:
    """The ELBO of a model and a guide, ready to be estimated."""

    def __init__(self, model: Classifier, guide: LowRankGaussianGuide) -> None:
        elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3, per_datum=True)
        self.module: ELBOModule = elbo(model, guide)
        self.blocks = {
            "M": list(guide.M.parameters()),
            "G": list(guide.G.parameters()),
            "B": [parameter for parameter in model.parameters() if parameter.requires_grad],
        }

    def estimate(
        self, batch: Batch, handler: Callable[[], AbstractContextManager[Any]], into: Estimates
    ) -> None:
        """Estimate loss and gradient once."""
        self.module.zero_grad()
        begun = time.perf_counter()
        with handler():
            loss = self.module(**batch)
        loss.backward()
        into.seconds.append(time.perf_counter() - begun)
        into.losses.append(loss.item())
        for block, parameters in self.blocks.items():
            gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
            into.gradients[block].append(gradient)
        G = torch.cat([parameter.detach().flatten() for parameter in self.blocks["G"]])
        into.slopes.append(float(into.gradients["G"][-1] @ G))


def tiny_problem() -> tuple[Objective, Callable[[int], Batch]]:
    net = tiny_network()
    with torch.no_grad():
        # As in a trained network, all tokens have a direction in common.
        net.get_input_embeddings().weight += 0.5 * torch.randn(net.config.hidden_size)
        for name, parameter in net.named_parameters():
            if "lora_B" in name:  # PEFT's zeros would keep all noise from the output
                parameter.normal_(std=0.5)
    model = LabelTokenClassifier(net, LABEL_TOKENS, num_data=32)
    texts = random_batch(net, rows=32, tokens=12)
    objective = Objective(model, LowRankGaussianGuide(model, init_scale=0.09))
    return objective, lambda rows: {name: tensor[:rows] for name, tensor in texts.items()}


def smollm2_problem(seed: int) -> tuple[Objective, Callable[[int], Batch]]:
    tokenizer, task = load_tokenizer(SMOLLM2), helpdesk()
    data = task.splits["train"]
    recipe = Recipe(training=TrainingConfig(num_steps=20, batch_size=4, seed=seed))
    model, guide, _ = run_recipe(recipe, load_causal_lm(SMOLLM2), tokenizer, task, data)
    shortest = sorted(data, key=lambda example: len(example["text"]))[:32]
    texts = random.sample(shortest, 32)  # so that no batch size has the shorter ones
    collator = PromptCollator(tokenizer, task)
    return Objective(model, guide), lambda rows: collator(texts[:rows])


def run_rounds(
    objective: Objective, batches: dict[int, Batch], rounds: int, minutes: float
) -> dict[tuple[int, str], Estimates]:
    """Estimate with every estimator and batch size once a round, in a new order each round."""
    estimates = {(size, name): Estimates() for size in batches for name in ESTIMATORS}
    objective.estimate(batches[min(batches)], nullcontext, Estimates())  # warms up
    end = time.monotonic() + 60 * minutes
    for done in range(rounds):
        if done >= 2 and time.monotonic() > end:
            break
        for size, name in random.sample(list(estimates), len(estimates)):
            objective.estimate(batches[size], ESTIMATORS[name], estimates[size, name])
    return estimates


def z_score(sample: list[float], reference: list[float]) -> float:
    """Give the difference of two samples' means in standard errors."""
    error = sum(statistics.variance(values) / len(values) for values in (sample, reference))
    return (statistics.mean(sample) - statistics.mean(reference)) / math.sqrt(error)


def table_row(size: int, name: str, estimates: Estimates, shared: Estimates) -> list[str]:
    variances = [estimates.variance(block) for block in BLOCKS]
    biases = ["", ""]
    if estimates is not shared:
        pairs = ((estimates.losses, shared.losses), (estimates.slopes, shared.slopes))
        biases = [f"{z_score(*pair):+.1f}" for pair in pairs]
    return [
        str(size),
        name,
        *(f"{value:.3g} ± {error / value:.0%}" for value, error in variances),
        f"{1e3 * statistics.median(estimates.seconds):.3g}",
        *biases,
    ]


def plot(estimates: dict[tuple[int, str], Estimates], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    sizes = sorted({size for size, _ in estimates})
    with plot_style():
        figure, axes = plt.subplots(1, 3, figsize=(10.0, 3.6), layout="constrained")
        for ax, block in zip(axes, BLOCKS, strict=True):
            for index, name in enumerate(ESTIMATORS):
                look = series(index)
                values, errors = zip(
                    *(estimates[size, name].variance(block) for size in sizes), strict=True
                )
                style = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle}
                ax.errorbar(sizes, values, yerr=errors, label=name, capsize=2, **style)
            ax.set(xscale="log", yscale="log", title=f"block {block}", xlabel="batch size")
            ax.set_xticks(sizes, labels=map(str, sizes))
            ax.minorticks_off()
        axes[0].set(ylabel="variance, summed over entries")
        axes[0].legend()
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--estimates", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("gradient_variance.png"))
    options = parser.parse_args()
    if options.smoke_test:
        options.model, options.batch_sizes, options.estimates = "tiny", [1, 2], 2
    flush_denormals()
    begin(options.seed)
    tiny = options.model == "tiny"
    objective, batch_of = tiny_problem() if tiny else smollm2_problem(options.seed)
    batches = {size: batch_of(size) for size in options.batch_sizes}
    estimates = run_rounds(objective, batches, options.estimates, options.minutes)
    count = len(next(iter(estimates.values())).losses)
    print(f"{options.model}, {count} estimates a line; variance ± its standard error\n")
    rows = [
        table_row(size, name, cell, estimates[size, SHARED])
        for (size, name), cell in estimates.items()
    ]
    variances = [f"variance of {block}" for block in BLOCKS]
    biases = ["bias of loss, z", "bias of slope, z"]
    print_table(["batch size", "estimator", *variances, "ms an estimate", *biases], rows)
    plot(estimates, options.output)
    print(f"plot: {options.output}")


if __name__ == "__main__":
    main()
