from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blob_pyro.benchmark import differences_table, paired_differences, read_config
from blob_pyro.diagnostics import METRICS
from blob_pyro.recipe import Predictions

Draws = dict[str, list[Predictions]]


@pytest.fixture
def config(content: Any, write: Any) -> Any:
    content["methods"]["blob"]["num_samples"] = [2]
    return read_config(write(content))


def made(folder: Path, shift: float, number: int = 60) -> Draws:
    """Draws of two seeds, in which BLoB's logits are plain LoRA's but for noise and a scale."""
    random, found = np.random.default_rng(0), Draws()
    labels = random.integers(4, size=number)
    ids = np.array([str(row) for row in range(number)])
    for seed in (0, 1):
        plain = 3 * random.normal(size=(1, number, 4))
        noise = 0.1 * random.normal(size=(2, number, 4))
        all_logits = {"mle": plain, "blob": shift * plain + noise, "zero_shot": 0 * plain}
        for name, logits in all_logits.items():
            predictions = Predictions(logits.astype(np.float32), labels, ids)
            draws = 2 if name == "blob" else 0
            cell = f"{name}-openbookqa-seed{seed}-openbookqa-draws{draws}.npz"
            predictions.save(folder / "draws" / cell)
            found.setdefault(name, []).append(predictions)
    return found


def test_estimates_are_differences_of_the_metrics(config: Any, tmp_path: Path) -> None:
    draws = made(tmp_path, shift=0.3)
    found = paired_differences(config, tmp_path, "openbookqa", "openbookqa")
    assert list(found) == ["zero_shot", "blob, K = 2"]
    for name, row in (("zero_shot", "zero_shot"), ("blob", "blob, K = 2")):
        for metric, factor in (("accuracy", 100), ("ece", 100), ("nll", 1)):
            each = [
                METRICS[metric](after.logits, after.labels) - METRICS[metric](b.logits, b.labels)
                for after, b in zip(draws[name], draws["mle"], strict=True)
            ]
            assert found[row][metric][0] == pytest.approx(factor * np.mean(each), abs=1e-4)


def test_intervals_are_those_of_resampled_pairs(config: Any, tmp_path: Path) -> None:
    draws = made(tmp_path, shift=0.3)
    _, low, high = paired_differences(config, tmp_path, "openbookqa", "openbookqa")["blob, K = 2"][
        "nll"
    ]
    # By brute force, another seed: percentiles of 400 sets of seeds and examples.
    random, means = np.random.default_rng(5), []
    for _ in range(400):
        rows = random.integers(60, size=60)
        nll = [
            METRICS["nll"](draws["blob"][seed].logits[:, rows], draws["blob"][seed].labels[rows])
            - METRICS["nll"](draws["mle"][seed].logits[:, rows], draws["mle"][seed].labels[rows])
            for seed in random.integers(2, size=2)
        ]
        means.append(np.mean(nll))
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx([low, high], abs=0.25 * (high - low))
    assert "**" in differences_table({"blob": {"nll": (-1.0, -2.0, -0.5)}})
    assert "**" not in differences_table({"blob": {"nll": (-1.0, -2.0, 0.5)}})


def test_no_plain_lora_no_differences(content: Any, write: Any, tmp_path: Path) -> None:
    del content["methods"]["mle"]
    assert paired_differences(read_config(write(content)), tmp_path, "openbookqa", "x") == {}


def test_other_examples_are_not_subtracted(config: Any, tmp_path: Path) -> None:
    draws = made(tmp_path, shift=0.3)["zero_shot"][1]
    other = replace(draws, ids=draws.ids[::-1])
    other.save(tmp_path / "draws" / "zero_shot-openbookqa-seed1-openbookqa-draws0.npz")
    with pytest.raises(ValueError, match="zero_shot was tested on other examples of openbookqa"):
        paired_differences(config, tmp_path, "openbookqa", "openbookqa")
