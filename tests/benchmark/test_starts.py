"""Cells that start from the posteriors of others, and what cells cost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.benchmark import (
    Cell,
    cell_run,
    cost_summary,
    extra_parameters,
    read_config,
    run_benchmark,
)
from blob_pyro.files import load_posterior
from blob_pyro.guides import EnsembleGuide
from blob_pyro.recipe import Recipe


@pytest.fixture
def content(content: dict[str, Any]) -> dict[str, Any]:
    content["seeds"] = [0]
    content["tasks"] = {
        "openbookqa": {"max_train": 3, "max_validation": 2, "ood": ["ai2_arc_easy"]}
    }
    # The start comes last, and is run first all the same.
    content["methods"] = {
        "ens": {"method": "ens", "options": {"num_members": 2}, "num_samples": [2]},
        "scaled": {"method": "temperature", "start": "ens", "num_samples": [2]},
        "mle": {"method": "mle", "num_samples": [0]},
    }
    return content


def test_an_ensemble_is_made_of_cells_and_calibrated_without_another_fit(
    content: Any, write: Any, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[str, int]] = []
    fine_tune = cell_run.fine_tune

    def counted(*args: Any, recipe: Recipe, **options: Any) -> Any:
        fits.append((recipe.method, recipe.training.seed))
        return fine_tune(*args, recipe=recipe, **options)

    monkeypatch.setattr(cell_run, "fine_tune", counted)
    config = read_config(write(content))
    results = run_benchmark(config, tmp_path, Path(questions))
    assert sorted(fits) == [("mle", 0), ("mle", 1000), ("zero_shot", 0)]
    task = "openbookqa"
    first, second = results[Cell("mle", task, 0)], results[Cell("mle", task, 0, 1)]
    assert second["metrics"] == {}
    ens, scaled = results[Cell("ens", task, 0)], results[Cell("scaled", task, 0)]
    assert ens["train_seconds"] > first["train_seconds"] + second["train_seconds"]
    assert scaled["train_seconds"] > ens["train_seconds"]
    (model, guide), (same, _) = (
        load_posterior(tmp_path / "posteriors" / f"{name}-openbookqa-seed0")
        for name in ("scaled", "ens")
    )
    assert isinstance(guide, EnsembleGuide)
    assert (float(same.temperature), float(model.temperature) == 1) == (1, False)
    # Two members' A and B, less those of one.
    assert ens["extra_parameters"] == extra_parameters(model, guide) > 0
    assert ens["extra_parameters"] == sum(
        site.projection.initial_weight.numel() for site in model.sites.values()
    )
    rows = cost_summary(config, results, task)
    assert rows["mle"]["train_ratio"] == rows["mle"]["predict_ratio"] == (1, math.nan)
    assert rows["ens, K = 2"]["train_ratio"][0] > 1
    assert rows["zero_shot"]["extra_parameters"] == (0, math.nan)
    assert rows["mle"]["bytes"][0] > 0.01
    made = (tmp_path / "tables.md").read_text()
    header = next(line for line in made.splitlines() if "training time" in line)
    assert [cell.strip() for cell in header.split("|")[2:5]] == [
        "training time / mle", "prediction time / mle", "peak memory, GiB",
    ]  # fmt: skip
    assert run_benchmark(config, tmp_path, Path(questions)) == results
    assert len(fits) == 3


def test_a_cell_depends_on_the_settings_of_its_start(content: Any, write: Any) -> None:
    def settings() -> str:
        return Cell("scaled", "openbookqa", 0).fingerprint(read_config(write(content)))

    before = settings()
    content["methods"]["mle"]["init_scale"] = 0.15
    assert settings() != before


def test_without_maximum_likelihood_times_are_seconds(content: Any, write: Any) -> None:
    content["methods"] = {"map": {"method": "map", "num_samples": [0]}}
    config = read_config(write(content))
    result = {
        "train_seconds": 3.0,
        "train_bytes": 2**30,
        "predict_seconds": {"0": 0.5},
        "predict_bytes": {"0": 2**31},
        "extra_parameters": 2000,
    }
    results = {Cell(name, "openbookqa", 0): result for name in ("map", "zero_shot")}
    assert cost_summary(config, results, "openbookqa")["map"] == {
        "train_seconds": (3, math.nan),
        "predict_seconds": (0.5, math.nan),
        "bytes": (2, math.nan),
        "extra_parameters": (2, math.nan),
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"t": {"method": "temperature"}},
            r"methods.t starts from another entry, and its start is None",
        ),
        (
            {"t": {"method": "temperature"}, "a": {"method": "map"}, "b": {"method": "map"}},
            r"usually of method: map \(there are \['a', 'b'\]",
        ),
        ({"t": {"method": "temperature", "start": "x"}}, "its start is 'x'"),
        ({"t": {"method": "temperature", "start": "t"}}, "its start is 't'"),
        (
            {
                "s": {"method": "temperature", "start": "t"},
                "t": {"method": "temperature", "start": "s"},
            },
            "its start is 't'",
        ),
        (
            {"a": {"method": "map", "start": "b"}},
            "methods.a is trained from the base model; leave start",
        ),
        ({"a": {"method": "map", "start": 1}}, "start=1: give a text"),
        ({"a": {"method": "ens", "options": [1]}}, r"options=\[1\]: give 'name: value' entries"),
        (
            {"a": {"method": "map", "options": {"x": 1}}},
            "options of method 'map': 'x' is no setting",
        ),
    ],
)
def test_mistakes_about_starts_and_options_are_named(
    methods: Any, message: str, content: Any, write: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(write({**content, "methods": methods}))


def test_draws_of_a_linearised_model_share_their_passes(
    content: Any, write: Any, questions: str, tmp_path: Path
) -> None:
    network = {"predictive": "network"}
    content["methods"] = {
        "map": {"method": "map", "num_samples": [0]},
        "lap": {"method": "lap", "num_samples": [2, 8]},
        "through": {"method": "lap", "options": network, "num_samples": [2, 8]},
    }
    run_benchmark(read_config(write(content)), tmp_path, Path(questions))
    seconds = {
        name: json.loads((tmp_path / "cells" / f"{name}-openbookqa-seed0.json").read_text())[
            "predict_seconds"
        ]
        for name in ("lap", "through")
    }
    assert seconds["lap"]["2"] == seconds["lap"]["8"]
    assert seconds["through"]["2"] == seconds["through"]["8"] / 4


def test_a_finished_cell_says_what_it_cost(
    content: Any, write: Any, questions: str, tmp_path: Path
) -> None:
    content["methods"] = {"mle": {"method": "mle", "num_samples": [0]}}
    run_benchmark(read_config(write(content)), tmp_path, Path(questions))
    cell = json.loads((tmp_path / "cells" / "mle-openbookqa-seed0.json").read_text())
    assert cell["train_bytes"] > 1e7
    assert cell["predict_seconds"].keys() == cell["predict_bytes"].keys() == {"0"}
    assert cell["extra_parameters"] == 0
