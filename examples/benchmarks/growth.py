"""How the cost of BLoB and of plain LoRA grows: with rank, sites, tokens, texts, data and draws.

A study varies one of them on a random Llama; within a round every size and both methods take turns.
A slope is that of log time over log size, fitted in each round: 0 is "does not grow", 1 is "in
proportion".  Sizes are small enough for one thread, so a slope also shows how much of the
time is the same at any size.  Memory is that of tensors, counted by torch's profiler.
``--smoke-test`` runs two rounds of the two smallest sizes with a tiny network.
"""

import argparse
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paired_comparison import (
    LABEL_TOKENS,
    begin,
    median_interval,
    paired,
    print_table,
    random_batch,
    random_network,
    round_slopes,
    seconds_in_turns,
    with_interval,
)
from plain_and_bayesian import TrainingStep, bayesian_steps, plain_predictions, plain_step

from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout
from blob_pyro.training import flush_denormals

BLOB, PLAIN = "BLoB", "plain LoRA"
METHODS = (BLOB, PLAIN)


@dataclass(frozen=True)
class Setting:
    """The size of everything that may grow."""

    width: int = 192
    rank: int = 8
    num_sites: int = 8
    tokens: int = 64
    batch_size: int = 4
    num_data: int = 1000
    num_draws: int = 4
    num_batches: int = 1
    device: str = "cpu"

    def network(self) -> Any:
        """Make the network; a layer has a query and a value projection."""
        return random_network(self.width, self.num_sites // 2, self.rank).to(self.device)


def training(setting: Setting) -> dict[str, TrainingStep]:
    """Make a training step of each method."""
    net = setting.network()
    batch = random_batch(net, setting.batch_size, setting.tokens)
    bayesian = bayesian_steps(setting.network(), batch, {BLOB: flipout}, setting.num_data)
    return {PLAIN: plain_step(net, batch), **bayesian}


def prediction(setting: Setting) -> dict[str, Callable[[], object]]:
    """Predict by K draws, one after the other, and by plain LoRA in one pass."""
    net = setting.network()
    size = setting.batch_size, setting.tokens
    batches = [random_batch(net, *size) for _ in range(setting.num_batches)]
    model = LabelTokenClassifier(setting.network(), LABEL_TOKENS, setting.num_data)
    predict = partial(posterior_predictive, model, LowRankGaussianGuide(model), progress=False)
    return {
        PLAIN: partial(plain_predictions, net, batches),
        BLOB: partial(predict, batches, setting.num_draws),
    }


class Study(NamedTuple):
    """What grows (an attribute of the setting), and what is timed meanwhile."""

    title: str
    attribute: str
    sizes: tuple[int, ...]
    prepare: Callable[[Setting], Any] = training


STUDIES = (
    Study("rank", "rank", (4, 8, 16, 32, 64)),
    Study("latent sites", "num_sites", (4, 8, 16, 32)),
    Study("tokens a text", "tokens", (16, 32, 64, 128, 256)),
    Study("texts a batch", "batch_size", (1, 2, 4, 8, 16)),
    Study("training data N", "num_data", (100, 10_000, 1_000_000, 100_000_000)),
    Study("draws K", "num_draws", (1, 3, 10, 30), prediction),
    Study("batches to predict", "num_batches", (1, 2, 4, 8), prediction),
)


@dataclass
class Growth:
    """The measurements of a study."""

    study: Study
    sizes: tuple[int, ...]
    seconds: dict[tuple[int, str], list[float]]
    bytes: dict[tuple[int, str], int] = field(default_factory=dict)

    def ratios(self, size: int) -> list[float]:
        """Give BLoB's time as a ratio to plain LoRA's, for each round."""
        return paired(operator.truediv, self.seconds[size, BLOB], self.seconds[size, PLAIN])

    def slope(self, samples: Iterable[Sequence[float]]) -> tuple[float, float, float]:
        """Fit the slope of logarithms through what was measured at each size, round by round."""
        return median_interval(round_slopes(np.log(self.sizes), np.log(list(samples)).T))

    def slopes(self) -> dict[str, tuple[float, float, float]]:
        """Give the slope of each method's time."""
        return {
            name: self.slope([self.seconds[size, name] for size in self.sizes]) for name in METHODS
        }

    def time_row(self) -> list[str]:
        """Write the slopes of the times, and their ratios at both ends."""
        slopes = self.slopes()
        fitted = [slopes[PLAIN], slopes[BLOB], self.slope(map(self.ratios, self.sizes))]
        ends = [with_interval(median_interval(self.ratios(size)), 2) for size in self._ends]
        return [*self._label, *(with_interval(slope, 2) for slope in fitted), *ends]

    def memory_row(self) -> list[str]:
        """Write the slopes of the bytes, which are the same in each round, and their ratios."""
        fitted = [
            self.slope([self.bytes[size, name]] for size in self.sizes)[0] for name in (PLAIN, BLOB)
        ]
        ends = [self.bytes[size, BLOB] / self.bytes[size, PLAIN] for size in self._ends]
        return [*self._label, *(f"{value:z.2f}" for value in (*fitted, *ends))]

    @property
    def _ends(self) -> tuple[int, int]:
        return self.sizes[0], self.sizes[-1]

    @property
    def _label(self) -> tuple[str, str]:
        return self.study.title, "{:,} to {:,}".format(*self._ends)


def measure(study: Study, setting: Setting, sizes: tuple[int, ...], repeats: int) -> Growth:
    prepared = {size: study.prepare(replace(setting, **{study.attribute: size})) for size in sizes}
    runs = {(size, name): prepared[size][name] for size in sizes for name in METHODS}
    growth = Growth(study, sizes, seconds_in_turns(runs, repeats))
    if study.prepare is training:
        growth.bytes = {
            key: step.resident_bytes() + step.peak_bytes() for key, step in runs.items()
        }
    return growth


def print_results(growths: list[Growth]) -> None:
    header = ["what grows", "from, to", "slope, plain LoRA", "slope, BLoB"]
    ends = ["ratio at the smallest", "at the largest"]
    print("Time (medians over rounds, 95 %):\n")
    print_table([*header, "slope of the ratio", *ends], [growth.time_row() for growth in growths])
    print("Peak memory of a training step, weights included:\n")
    trained = [growth for growth in growths if growth.bytes]
    print_table([*header, *ends], [growth.memory_row() for growth in trained])


def plot(growths: list[Growth], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plot_style():
        figure, grid = plt.subplots(2, 4, figsize=(12.0, 5.6), layout="constrained")
        panels = list(grid.flat)
        for growth, ax in zip(growths, panels, strict=False):
            plot_panel(growth, ax)
        for ax in grid[:, 0]:
            ax.set(ylabel="milliseconds")
        panels[-1].axis("off")
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=11)
        figure.savefig(path)
        plt.close(figure)


def plot_panel(growth: Growth, ax: Any) -> None:
    """Draw the medians of one study and their intervals, both axes logarithmic."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for index, name in enumerate(METHODS):
        look = series(index)
        middles, lows, highs = (
            1e3 * np.array([median_interval(growth.seconds[size, name]) for size in growth.sizes]).T
        )
        ax.errorbar(
            growth.sizes,
            middles,
            (middles - lows, highs - middles),
            label=name,
            color=look.color,
            marker=look.marker,
            linestyle=look.linestyle,
            # Hollow, so that the other method shows where the two coincide.
            markerfacecolor=look.color if name == BLOB else "none",
            markersize=5 if name == BLOB else 8,
            capsize=2,
        )
    slopes = growth.slopes()
    what = "training step" if growth.study.prepare is training else "prediction"
    ax.set(xscale="log", yscale="log", xlabel=growth.study.title)
    ax.set_title(
        f"{what}\nslope: BLoB {slopes[BLOB][0]:z.2f}, plain {slopes[PLAIN][0]:z.2f}", fontsize=10
    )
    ax.set_xticks(growth.sizes)
    ax.set_ylim(ax.get_ylim()[0] / 1.5, ax.get_ylim()[1] * 1.5)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(EngFormatter(sep=""))
        axis.set_minor_formatter(NullFormatter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of growth.png")
    options = parser.parse_args()
    setting, repeats = Setting(device=options.device), options.repeats
    if options.smoke_test:
        setting, repeats = replace(setting, width=32, tokens=4), 2
    flush_denormals()
    begin(options.seed, options.device)
    print(f"{setting}, but for what grows; {repeats} rounds\n")
    growths = [
        measure(study, setting, study.sizes[: 2 if options.smoke_test else None], repeats)
        for study in STUDIES
    ]
    print_results(growths)
    options.output.mkdir(parents=True, exist_ok=True)
    plot(growths, options.output / "growth.png")
    print(f"plot: {options.output / 'growth.png'}")


if __name__ == "__main__":
    main()
