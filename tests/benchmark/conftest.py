"""A benchmark of two methods on two tasks, over a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def content(base_folder: str) -> dict[str, Any]:
    return {
        "model": base_folder,
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
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write_yaml(content: Any) -> Path:
        path = tmp_path / "benchmark.yaml"
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return path

    return write_yaml
