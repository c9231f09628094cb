"""A posterior of texts that nothing was trained for, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from blob_pyro import save_posterior
from blob_pyro.cli import app
from blob_pyro.diagnostics import FeatureDistance
from blob_pyro.files.task import task_record
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe.network import make_likelihood
from blob_pyro.tasks import Task, helpdesk


@pytest.fixture
def invoke() -> Callable[..., Any]:
    """Run a command with arguments, perhaps with bytes on its standard input."""

    def run(*arguments: str, stdin: bytes | None = None) -> Any:
        return CliRunner().invoke(app, [*arguments], input=stdin, env={"COLUMNS": "220"})

    return run


@pytest.fixture
def saved(tmp_path: Path, base_folder: str) -> Callable[[Task], str]:
    """Save a posterior of a task, over the tiny causal LM of ``base_folder``."""

    def save(task: Task) -> str:
        lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
        net = get_peft_model(load_causal_lm(base_folder), lora)
        # PEFT starts with lora_B at zero, where all draws answer alike.
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.3)
        tokenizer = load_tokenizer(base_folder)
        model = make_likelihood(net, tokenizer, task, "options", 7, 0.2)
        guide = LowRankGaussianGuide(model, init_scale=0.25)
        folder = tmp_path / "saved"
        features = FeatureDistance.of(np.random.default_rng(0).normal(size=(20, 16)), [0, 1] * 10)
        save_posterior(folder, model, guide, task=task_record(task), features=features)
        return str(folder)

    return save


@pytest.fixture
def posterior(saved: Callable[[Task], str]) -> str:
    """A posterior of the help desk."""
    return saved(helpdesk())
