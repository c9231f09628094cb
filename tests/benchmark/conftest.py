"""A benchmark of two methods on two tasks, over a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from blob_pyro.benchmark import BenchmarkConfig, read_config, run_benchmark


def tiny_benchmark(base_model: str) -> dict[str, Any]:
    return {
        "model": base_model,
        "seeds": [0, 1],
        "max_test": 5,
        "training": {"num_steps": 1, "batch_size": 2, "rank": 2},
        "tasks": {
            "openbookqa": {"max_train": 4, "ood": ["ai2_arc_easy"]},
            "ai2_arc_easy": {"max_train": 3},
        },
        "methods": {
            "mle": {"method": "mle", "num_samples": [0]},
            "blob": {"init_scale": 0.09, "num_samples": [0, 2]},
        },
    }


@pytest.fixture
def content(base_folder: str) -> dict[str, Any]:
    return tiny_benchmark(base_folder)


def write_yaml(folder: Path, content: Any) -> Path:
    path = folder / "benchmark.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    return lambda content: write_yaml(tmp_path, content)


@pytest.fixture(scope="session")
def finished(
    unchanged_files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[BenchmarkConfig, Path, Any]:
    """A benchmark that ran to its end: its configuration, its folder and its results."""
    base_model, questions = unchanged_files
    folder = tmp_path_factory.mktemp("finished")
    config = read_config(write_yaml(folder, tiny_benchmark(base_model)))
    return config, folder / "out", run_benchmark(config, folder / "out", Path(questions))
