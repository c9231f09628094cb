"""transformers' Trainer against ``fit``: the same batches and noise give the same run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from blob_pyro import load, load_posterior
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.tasks import lengths
from blob_pyro.testing import ENCODER, tiny_network
from blob_pyro.training import FollowSteps, TrainerModule, TrainingConfig, descent, fit

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"


@pytest.fixture(autouse=True)
def _own_precision() -> Iterator[None]:
    """Accelerate keeps the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def shared_noise() -> Any:
    """Noise that follows from the batch, and eleven examples: the last batch of two has one."""
    path = Path(__file__).with_name("shared_noise.py")
    spec = importlib.util.spec_from_file_location("shared_noise", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runs = shared_noise()


class SameOrderTrainer(Trainer):
    """Goes through the examples in the order of ``fit``."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> LengthGroupedSampler:
        generator = torch.Generator().manual_seed(0)
        return LengthGroupedSampler(2, lengths=lengths(runs.DATA), generator=generator)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def trainer_for(folder: Path, **options: Any) -> tuple[Trainer, TrainerModule]:
    model, guide, elbo = runs.program()
    settings = {
        "max_steps": 10, "per_device_train_batch_size": 2, "logging_steps": 1, "report_to": "none",
        "use_cpu": True, "remove_unused_columns": False, "save_strategy": "no",
    }  # fmt: skip
    module = TrainerModule(model, guide, elbo)
    config = TrainingConfig(num_steps=10, batch_size=2, learning_rate=1e-2)
    trainer = SameOrderTrainer(
        model=module,
        args=TrainingArguments(str(folder), **{**settings, **options}),
        train_dataset=runs.DATA,
        eval_dataset=runs.HELD_OUT,
        data_collator=runs.collate,
        compute_metrics=accuracy,
        optimizers=descent(model, guide, config),
        callbacks=[FollowSteps(module)],
    )
    return trainer, module


def learned(model: Any, guide: Any) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **guide.state_dict()}


@pytest.mark.parametrize(("accumulation_steps", "precision"), [(1, "no"), (2, "no"), (2, "bf16")])
def test_losses_and_parameters_are_those_of_fit(
    tmp_path: Path, accumulation_steps: int, precision: str
) -> None:
    trainer, module = trainer_for(
        tmp_path, gradient_accumulation_steps=accumulation_steps, bf16=precision == "bf16"
    )
    trainer.train()
    model, guide, elbo = runs.program()
    config = TrainingConfig(
        num_steps=10, batch_size=2, learning_rate=1e-2, accumulation_steps=accumulation_steps
    )
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    records = fit(model, guide, elbo, runs.DATA, runs.collate, config, accelerator=accelerator)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    np.testing.assert_allclose(losses, [record.loss for record in records], rtol=1e-5)
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "loss" in entry]
    np.testing.assert_allclose(norms, [record.grad_norm for record in records], rtol=1e-4)
    found, wanted = learned(module.model, module.guide), learned(model, guide)
    assert {*found} == {*wanted}
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_a_resumed_run_ends_where_one_ends_that_ran_through(tmp_path: Path) -> None:
    through, module = trainer_for(tmp_path / "a", save_strategy="steps", save_steps=4)
    through.train()
    saved = load_file(tmp_path / "a" / "checkpoint-4" / "model.safetensors")
    assert not any("embeddings" in name for name in saved)
    resumed, again = trainer_for(tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    found, wanted = learned(again.model, again.guide), learned(module.model, module.guide)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name
    assert again.elbo.step == 10


def test_evaluation_is_under_the_posterior_mean(tmp_path: Path) -> None:
    trainer, module = trainer_for(tmp_path, per_device_eval_batch_size=7)
    metrics = trainer.evaluate()
    batch = runs.collate([*runs.HELD_OUT])
    mean = posterior_predictive(module.model.eval(), module.guide, [batch], 0, progress=False)
    log_p = torch.as_tensor(mean["logits"])[0].log_softmax(-1)
    nll = -log_p[torch.arange(7), batch["labels"]].mean()
    assert metrics["eval_loss"] == pytest.approx(float(nll), rel=1e-5)
    right = (log_p.argmax(-1) == batch["labels"]).float().mean()
    assert metrics["eval_accuracy"] == pytest.approx(float(right))


def test_a_run_whose_steps_nobody_counts_is_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_for(tmp_path)
    trainer.remove_callback(FollowSteps)
    with pytest.raises(RuntimeError, match=r"nobody counts them; give Trainer callbacks=\[Foll"):
        trainer.train()


def test_a_bare_program_is_refused_before_training(tmp_path: Path) -> None:
    model = SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=3)
    with pytest.raises(TypeError, match=r"a SequenceClassifier is a Pyro program; .*TrainerModule"):
        Trainer(model=model, args=TrainingArguments(str(tmp_path), use_cpu=True))


def test_the_page_runs(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    BertForSequenceClassification(
        BertConfig(**{**ENCODER, "vocab_size": len(tokenizer), "num_labels": 2})
    ).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    script = blocks[0].replace('"bert-base-uncased"', '"tiny"').replace("steps=200", "steps=4")
    script = script.replace("steps=100", "steps=2").replace(
        '"run",', '"run", report_to="none", use_cpu=True,'
    )
    rows = Dataset.from_dict({"text": ["the toner is out", "my login"] * 6, "label": [0, 1] * 6})
    scope: dict[str, Any] = {"data": {"train": rows, "test": rows}}
    exec(compile(script, PAGE.name, "exec"), scope)
    evaluated = [log for log in scope["trainer"].state.log_history if "eval_loss" in log]
    assert [log["step"] for log in evaluated] == [2, 4]
    assert 0 <= evaluated[0]["eval_ece"] <= 1
    net = AutoModelForSequenceClassification.from_pretrained("tiny", num_labels=2)
    model, guide = load_posterior("posterior", net)
    for name, mean in scope["guide"].mean().items():
        torch.testing.assert_close(guide.mean()[name], mean)
    assert isinstance(model, SequenceClassifier)
    assert {*load("posterior").predict(["my login"])} <= {"negative", "positive"}
