"""Two real processes against one that accumulates twice."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blob_pyro.training.training_state import separate_noise

# The package has the function by this name.
sharded = importlib.import_module("blob_pyro.training.sharded_predictive")
OF_TWO = SimpleNamespace(process_index=0, num_processes=2)
SCRIPT = Path(__file__).with_name("shared_noise.py")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def runs() -> Any:
    spec = importlib.util.spec_from_file_location("shared_noise", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """What two processes ended with.

    By torchrun, since ``accelerate launch`` leaves processes on CPUs to MPI.
    """
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
    }
    result = subprocess.run(
        [*launch, str(SCRIPT), str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(folder / "two")


@pytest.mark.parametrize("name", ["joint", "kl_optim", "both"])
def test_two_processes_train_as_one_that_accumulates_twice(
    name: str, two: Tensors, runs: Any
) -> None:
    start = {**dict(runs.program()[0].named_parameters()), **runs.program()[1].state_dict()}
    learned, records = runs.run(name, accumulation_steps=2)
    moved = []
    for key, tensor in learned.items():
        assert (tensor - two[f"{name}/learned/{key}"]).abs().max() < 1e-5, key
        moved.append((tensor - start[key]).abs().max())
    assert max(moved) > 1e-2
    terms = [[r.loss, r.nll, r.kl, r.grad_norm, r.validation_nll or 0.0] for r in records]
    expected = torch.tensor(terms, dtype=torch.float64)
    assert torch.allclose(two[f"{name}/records"], expected, rtol=1e-4)


def test_step_rules_of_other_methods_are_those_of_one_process(two: Tensors, runs: Any) -> None:
    for name, value in runs.fit_posthoc(accumulation_steps=2).items():
        for process in (0, 1):
            assert (value - two[f"posthoc/{process}/{name}"]).abs().max() < 1e-5, name


def test_processes_draw_noise_of_their_own(two: Tensors) -> None:
    assert not torch.equal(two["noise/0"], two["noise/1"])


def test_an_estimated_kl_does_not_drive_processes_apart(two: Tensors) -> None:
    keys = [key.removeprefix("hyper/0/") for key in two if key.startswith("hyper/0/")]
    assert any("hyper.loc" in key for key in keys)
    for key in keys:
        assert torch.equal(two[f"hyper/0/{key}"], two[f"hyper/1/{key}"])


@pytest.mark.parametrize("num_data", [7, 1])
def test_prediction_gathers_every_example_once(num_data: int, two: Tensors, runs: Any) -> None:
    alone = runs.predict(num_data)["logits"]
    assert alone.shape == (3, num_data, 2)
    assert torch.allclose(two[f"predicted/{num_data}"], alone, atol=1e-5)


def test_every_example_is_predicted_by_one_process(two: Tensors) -> None:
    shares = [two[f"read/7/{process}"].tolist() for process in (0, 1)]
    assert [*map(len, shares)] == [4, 3]
    assert sorted(shares[0] + shares[1]) == [*range(7)]


def test_processes_with_other_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [(range(1, 4, 2), "theirs")]
    monkeypatch.setattr(sharded, "PartialState", lambda: OF_TWO)
    monkeypatch.setattr(sharded, "gather_object", lambda mine: mine + theirs)
    parts, rows = sharded.in_shares(4, lambda mine: f"mine {[*mine]}")
    assert (parts, rows.tolist()) == (["mine [0, 2]", "theirs"], [0, 2, 1, 3])
    with pytest.raises(ValueError, match=r"5 examples came together from 2 .* one was given 6"):
        sharded.in_shares(6, lambda mine: "mine")


def test_the_first_process_keeps_its_noise() -> None:
    def drawn(process: int) -> list[float]:
        torch.manual_seed(3)
        separate_noise(SimpleNamespace(process_index=process))
        return torch.rand(3).tolist()

    torch.manual_seed(3)
    first = torch.rand(3).tolist()
    assert drawn(0) == first
    assert len({tuple(drawn(process)) for process in range(3)}) == 3
