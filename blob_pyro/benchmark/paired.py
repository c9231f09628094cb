"""Differences of methods to plain LoRA, seed by seed and example by example, with intervals."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas

from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.tables import COLUMNS, plain_lora, rows_of
from blob_pyro.diagnostics.calibration import binnable_probs
from blob_pyro.diagnostics.predictive import log_probs_and_labels
from blob_pyro.recipe.predictions import Predictions, load_predictions

Floats = npt.NDArray[np.float64]
# Estimate, and the ends of its interval.
Estimate = tuple[float, float, float]
_NUM_BINS = 15


def paired_differences(
    config: BenchmarkConfig, folder: Path, task: str, on: str, num_resamples: int = 1000
) -> dict[str, dict[str, Estimate]]:
    """Subtract the metrics of plain LoRA from those of every other row, with intervals.

    Both had the same training examples, seeds and test examples, so most of what varies between
    seeds and between examples cancels.  The 95 % intervals are the percentiles of a bootstrap that
    draws seeds, and examples, with replacement.  With few seeds they are somewhat narrow.

    Parameters
    ----------
    config
        The benchmark.
    folder
        Its results; the draws are read.
    task, on
        What was trained on, and tested on.
    num_resamples
        Sets of seeds and examples that are drawn.

    Returns
    -------
    dict
        Row (see :func:`summary`) to metric to estimate and ends of the interval, accuracy and ECE
        in percent, NLL in nats; empty without plain LoRA, or where the right answers are not known.

    Raises
    ------
    ValueError
        If a row was tested on other examples.

    References
    ----------
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007.
    """
    unit = plain_lora(config)

    def predictions(name: str, num_samples: int) -> list[Predictions]:
        cells = (f"{name}-{task}-seed{seed}-{on}-draws{num_samples}" for seed in config.seeds)
        return [load_predictions(folder / "draws" / f"{cell}.npz") for cell in cells]

    if unit is None:
        return {}
    plain = predictions(unit, config.methods[unit].num_samples[0])
    if not all(each.is_labelled for each in plain):
        return {}
    random = np.random.default_rng(0)
    shares = random.random((num_resamples, max(len(each.labels) for each in plain)))
    seeds = random.integers(len(plain), size=(num_resamples, len(plain)))
    before = [_metrics(each, shares) for each in plain]
    found = {}
    for row, name, num_samples in rows_of(config):
        if name != unit:
            others = predictions(name, num_samples)
            for one, other in zip(plain, others, strict=True):
                if not (np.array_equal(one.ids, other.ids) and (one.labels == other.labels).all()):
                    raise ValueError(
                        f"{folder}: {row} was tested on other examples of {on} than {unit}, so "
                        "nothing can be subtracted; delete the cells of one, and run them again"
                    )
            after = [_metrics(each, shares) for each in others]
            found[row] = {
                metric: _estimate([a[metric] - b[metric] for a, b in pairs], seeds)
                for metric in before[0]
                if (pairs := list(zip(after, before, strict=True)))
            }
    return found


def _metrics(predictions: Predictions, shares: Floats) -> dict[str, Floats]:
    """Compute each metric on all examples, and on each resampled set: R + 1 numbers."""
    probs, labels = binnable_probs(predictions.logits, predictions.labels)
    number = len(labels)
    drawn = (shares[:, :number] * number).astype(int)
    chosen = np.vstack([np.arange(number), drawn])
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    # Bins of all sets side by side, so that one count does for all.
    bins = (confidence * _NUM_BINS).astype(int)[chosen] + _NUM_BINS * np.arange(len(chosen))[
        :, None
    ]
    gaps = np.bincount(bins.ravel(), (confidence - right)[chosen].ravel(), _NUM_BINS * len(chosen))
    values = {
        "accuracy": right[chosen].mean(axis=1),
        "ece": np.abs(gaps.reshape(len(chosen), -1)).sum(axis=1) / number,
        "nll": -_log_probs(predictions)[chosen].mean(axis=1),
    }
    return {name: value * COLUMNS[name][1] for name, value in values.items()}


def _log_probs(predictions: Predictions) -> Floats:
    log_p, labels = log_probs_and_labels(predictions.logits, predictions.labels)
    return np.asarray(log_p[np.arange(len(labels)), labels], dtype=np.float64)


def _estimate(differences: list[Floats], seeds: npt.NDArray[np.int64]) -> Estimate:
    whole, resampled = np.stack(differences)[:, 0], np.stack(differences, axis=1)[1:]
    means = np.take_along_axis(resampled, seeds, axis=1).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(whole.mean()), float(low), float(high)


def differences_table(rows: dict[str, dict[str, Estimate]]) -> str:
    """Write differences to plain LoRA as a Markdown table; bold ones exclude zero."""
    table = {
        row: {COLUMNS[name][0]: _cell(*estimate) for name, estimate in estimates.items()}
        for row, estimates in rows.items()
    }
    return (
        f"{pandas.DataFrame.from_dict(table, orient='index').to_markdown(disable_numparse=True)}\n"
    )


def _cell(value: float, low: float, high: float) -> str:
    text = f"{value:+.2f}"
    return f"{text if low <= 0 <= high else f'**{text}**'} ({low:+.2f} to {high:+.2f})"
