from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from datasets import Dataset

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM, SequenceClassifier
from blob_pyro.training import (
    CheckpointConfig,
    StepRecord,
    TrainingConfig,
    TrainingInterruptedError,
    fit,
)

DATA = Dataset.from_dict({"text": ["a" * n for n in range(1, 13)], "token": [*range(5, 17)]})
HELD_OUT = Dataset.from_dict({"text": ["a"] * 6, "token": [*range(20, 26)]})
CONFIG = TrainingConfig(num_steps=9, batch_size=4, learning_rate=2e-2)
Tensors = dict[str, torch.Tensor]


class CrashError(Exception):
    """In the place of a machine that goes down."""


def collate(examples: list[dict[str, Any]]) -> Tensors:
    """The class is the parity of the token; now and then a token is replaced by chance."""
    tokens = torch.tensor([example["token"] for example in examples])
    noisy = tokens if random.random() < 0.7 else tokens + int(np.random.randint(3))
    return {"input_ids": noisy[:, None].expand(-1, 4).contiguous(), "labels": tokens % 2}


@pytest.fixture
def train(peft_network: Any, tmp_path: Path) -> Callable[..., tuple[Tensors, list[StepRecord]]]:
    """Train a new program of one seed, as a new process would: what it learned, and the records."""

    def run(
        config: TrainingConfig = CONFIG,
        folder: Path | None = tmp_path,
        resume: bool = False,
        save_every: int = 2,
        scale: float = 0.2,
        data: Dataset = DATA,
        temperature: float = 1.0,
        num_batches: int = 3,
        **options: Any,
    ) -> tuple[Tensors, list[StepRecord]]:
        pyro.set_rng_seed(3)
        model = SequenceClassifier(
            peft_network("bert", "SEQ_CLS", lora_dropout=0.1), len(DATA), scale
        )
        model.set_temperature(temperature)
        guide = LowRankGaussianGuide(model)
        checkpoints = None
        if folder is not None:
            checkpoints = CheckpointConfig(folder, save_every, keep_last=2, resume=resume)
        records = fit(
            model,
            guide,
            ReweightedTrace_ELBO(num_batches, kl_scale=1e-3, per_datum=True),
            data,
            collate,
            config,
            checkpoints=checkpoints,
            validation=HELD_OUT if config.validate_every else None,
            **options,
        )
        return {**dict(model.named_parameters()), **guide.state_dict()}, records

    return run


def test_a_run_that_writes_text_goes_on_too(peft_network: Any, tmp_path: Path) -> None:
    def collate_text(examples: list[dict[str, Any]]) -> Tensors:
        ids = collate(examples)["input_ids"]
        return {"input_ids": ids, "labels": ids}

    def run(resume: bool) -> list[StepRecord]:
        pyro.set_rng_seed(3)
        model = CausalLM(peft_network("llama"), len(DATA))
        elbo = ReweightedTrace_ELBO(3, kl_scale=1e-3, per_datum=True)
        saving = CheckpointConfig(tmp_path, save_every=1, resume=resume)
        stop = None if resume else crash_at(2)
        config = TrainingConfig(num_steps=4, batch_size=4)
        guide = LowRankGaussianGuide(model)
        return fit(model, guide, elbo, DATA, collate_text, config, checkpoints=saving, on_step=stop)

    with pytest.raises(CrashError):
        run(resume=False)
    assert len(run(resume=True)) == 4


def crash_at(step: int) -> Callable[[StepRecord], None]:
    def on_step(record: StepRecord) -> None:
        if record.step == step:
            raise CrashError

    return on_step


def names(folder: Path) -> list[int]:
    """Numbers of the steps that are saved; nothing else lies there."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.iterdir())


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG.changed(kl_learning_rate=1e-2),
        CONFIG.changed(accumulation_steps=2, validate_every=3),
    ],
    ids=["joint", "decoupled", "accumulated and validated"],
)
def test_a_run_that_crashed_ends_bit_for_bit_as_one_that_did_not(
    config: TrainingConfig, train: Any, tmp_path: Path
) -> None:
    learned, records = train(config, folder=None)
    for step in (0, 3, 6):
        with pytest.raises(CrashError):
            train(config, resume=step > 0, on_step=crash_at(step))
    resumed, resumed_records = train(config, resume=True)
    assert resumed_records == records
    for name, tensor in learned.items():
        assert torch.equal(tensor, resumed[name]), name
    # Nothing is left to do: the same again.
    assert train(config, resume=True)[1] == records


def test_the_last_ones_and_the_best_are_kept(train: Any, tmp_path: Path) -> None:
    train()
    assert names(tmp_path) == [8, 9]
    best = tmp_path / "best"
    # A rate far too high: the first score is the best one.
    config = CONFIG.changed(learning_rate=10.0, head_learning_rate=None, validate_every=1)
    _, records = train(config, folder=best, save_every=3)
    scores = [record.validation_nll for record in records]
    wanted = {6, 9, 1 + scores.index(min(scores))}
    assert names(best) == sorted(wanted)
    assert len(wanted) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_after_the_step(number: Any, train: Any, tmp_path: Path) -> None:
    before = signal.getsignal(number)

    def on_step(record: StepRecord) -> None:
        if record.step == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(TrainingInterruptedError, match=r"after 5 of 9 steps; everything is saved in"
                       r" .*step-00000005.safetensors, resume from there") as stopped:  # fmt: skip
        train(save_every=100, on_step=on_step)
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before
    assert names(tmp_path) == [0, 5]
    assert train(resume=True)[1] == train(folder=None)[1]


def test_a_second_ctrl_c_stops_at_once(train: Any) -> None:
    def on_step(record: StepRecord) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        train(on_step=on_step)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def flip_in_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"learning_rate", b"learning_rbte", 1))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [flip, flip_in_header, truncate, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_fallen_back_from(damage: Any, train: Any, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        train(on_step=crash_at(6))
    assert names(tmp_path) == [4, 6]
    damage(tmp_path / "step-00000006.safetensors")
    seen: list[int] = []
    with pytest.warns(UserWarning, match=r"step-00000006.*is damaged \(.*; looking at the che"):
        _, records = train(resume=True, on_step=lambda record: seen.append(record.step))
    assert seen == [4, 5, 6, 7, 8]
    assert records == train(folder=None)[1]


def test_a_damaged_one_does_not_push_a_whole_one_out(train: Any, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        train(on_step=crash_at(6))
    flip(tmp_path / "step-00000006.safetensors")
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(CrashError):
        train(resume=True, save_every=5, on_step=crash_at(5))
    assert names(tmp_path) == [4, 5]


def test_without_a_whole_one_a_run_does_not_start_from_zero(train: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no whole checkpoint to resume from; give the fold"):
        train(resume=True)
    train()
    for path in tmp_path.iterdir():
        truncate(path)
    with (
        pytest.warns(UserWarning, match="step-0000000[89].* is damaged"),
        pytest.raises(ValueError, match="holds no whole checkpoint to resume from"),
    ):
        train(resume=True)
    with pytest.raises(ValueError, match=r"checkpoints of a run .the newest is step-00000009"):
        train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"config": CONFIG.changed(learning_rate=1e-3)},
            "its training.learning_rate is 0.02, here",
        ),
        # The setting that was given, not what follows from it.
        ({"config": CONFIG.changed(batch_size=2), "num_batches": 6}, "its training.batch_size is"),
        ({"config": CONFIG.changed(validate_every=2)}, "its training.validate_every is null, here"),
        (
            {"scale": 0.3},
            r'its prior is \["NormalPrior", {"scale": 0.2}\], here it is',
        ),
        ({"data": DATA.select([*range(11), 0])}, "its training data is"),
        ({"temperature": 3.0}, "its temperature is 1.0, here it is 3.0"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    options: dict[str, Any], message: str, train: Any
) -> None:
    with pytest.raises(CrashError):
        train(on_step=crash_at(3))
    with pytest.raises(ValueError, match=rf"step-00000002.*of another run: .*{message}"):
        train(resume=True, **options)


def test_a_full_disk_stops_with_the_checkpoint_before_it(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(record: StepRecord) -> None:
        if record.step == 5:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match=r"step-00000006.* cannot be written \(No space left on dev"
                       r"ice\); .* to resume from: .*'step-00000004.safetensors'\]"):  # fmt: skip
        train(on_step=fill)
    monkeypatch.undo()
    assert names(tmp_path) == [2, 4]
    assert train(resume=True)[1] == train(folder=None)[1]


def test_a_folder_that_cannot_be_written_is_found_out_before_training(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match=r"step-00000000.* cannot be written \(Read-only file system"
                       r"\); mend it or give another folder.*from: \[\]"):  # fmt: skip
        train(on_step=crash_at(0))
    assert names(tmp_path) == []


def test_what_a_killed_process_was_writing_is_removed(train: Any, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        train(on_step=crash_at(3))
    (tmp_path / ".step-00000004.safetensors-abc").write_bytes(b"half")
    train(resume=True)
    assert names(tmp_path) == [8, 9]


def test_members_that_follow_each_other_have_folders_of_their_own(tmp_path: Path) -> None:
    whole = CheckpointConfig(tmp_path, resume=True)
    folder = tmp_path / "member-1"
    assert whole.of_member(1) == CheckpointConfig(folder)
    folder.mkdir()
    (folder / "step-00000000.safetensors").touch()
    assert whole.of_member(1) == CheckpointConfig(folder, resume=True)
    # The first has to be there: a resumed run never starts from nothing.
    assert whole.of_member(0).resume
