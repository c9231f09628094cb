"""TRL's SFTTrainer against ``fit``; skipped where TRL is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM
from blob_pyro.tasks import lengths
from blob_pyro.testing import tiny_network, tiny_tokenizer
from blob_pyro.training import FollowSteps, TrainerModule, TrainingConfig, descent, fit

trl = pytest.importorskip("trl", reason="trl is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ROWS = [
    {"prompt": "the toner is", "completion": " pink today"},
    {"prompt": "the login", "completion": " is locked"},
    {"prompt": "my badge was", "completion": " eaten by the copier"},
    {"prompt": "today", "completion": " it is locked"},
] * 2


@pytest.fixture(autouse=True)
def _own_precision() -> Iterator[None]:
    """Accelerate keeps the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


class BatchNoiseGuide(LowRankGaussianGuide):
    """Draws (and lets flipout draw) what the batch says."""

    def forward(self, *args: Any, **batch: Any) -> dict[str, torch.Tensor]:
        if batch:
            torch.manual_seed(int(batch["input_ids"].square().sum()))
        return super().forward(*args, **batch)


def program() -> tuple[CausalLM, BatchNoiseGuide, ReweightedTrace_ELBO]:
    pyro.set_rng_seed(0)
    model = CausalLM(tiny_network("llama"), num_data=len(ROWS))
    return model, BatchNoiseGuide(model), ReweightedTrace_ELBO(2, kl_scale=0.1, per_datum=True)


def test_losses_and_parameters_are_those_of_fit(tmp_path: Path) -> None:
    class SameOrderTrainer(trl.SFTTrainer):  # type: ignore[misc]
        compute_loss, log = Trainer.compute_loss, Trainer.log
        prediction_step = Trainer.prediction_step

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> LengthGroupedSampler:
            generator = torch.Generator().manual_seed(0)
            return LengthGroupedSampler(2, lengths=lengths(self.train_dataset), generator=generator)

    model, guide, elbo = program()
    module = TrainerModule(model, guide, elbo)
    config = TrainingConfig(num_steps=6, batch_size=2, learning_rate=1e-2, accumulation_steps=2)
    args = trl.SFTConfig(
        str(tmp_path), max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = SameOrderTrainer(
        model=module,
        args=args,
        train_dataset=Dataset.from_list(ROWS),
        eval_dataset=Dataset.from_list(ROWS),
        processing_class=tiny_tokenizer([row["prompt"] + row["completion"] for row in ROWS]),
        optimizers=descent(model, guide, config),
        callbacks=[FollowSteps(module)],
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    other, other_guide, elbo = program()
    records = fit(other, other_guide, elbo, trainer.train_dataset, trainer.data_collator, config)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    np.testing.assert_allclose(losses, [record.loss for record in records], rtol=1e-5)
    wanted = {**dict(other.named_parameters()), **other_guide.state_dict()}
    for name, value in {**dict(model.named_parameters()), **guide.state_dict()}.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)


def test_the_page_runs(tmp_path: Path, base_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "trainer.md"
    block = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)[1]
    script = block.replace('"HuggingFaceTB/SmolLM2-135M"', repr(base_folder))
    script = script.replace("steps=200", "steps=2").replace(
        '"run",', '"run", report_to="none", use_cpu=True,'
    )
    exec(compile(script, page.name, "exec"), scope := {"train": Dataset.from_list(ROWS)})
    assert scope["module"].elbo.step == 2
    assert (tmp_path / "posterior" / "posterior.safetensors").exists()
