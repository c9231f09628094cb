"""The command line in processes of its own: several at once, and one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest
from huggingface_hub import ModelCard

from blob_pyro import load
from blob_pyro.tasks import read_table

SUBJECTS = {"toner": "printing", "my password": "login", "paper": "printing", "the app": "login"}
ROWS = [f"{text} {i} is not there,{label}" for i in range(3) for text, label in SUBJECTS.items()]
ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}
# What accelerate launch tells its processes, which it does not start on CPUs.
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture
def train(tmp_path: Path, base_folder: str) -> list[str]:
    """Give the command that trains on twelve texts, two of them kept for the test."""
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *ROWS]))
    return [
        "train", "--data", "tickets.csv", "--model", Path(base_folder).name, "--num-steps", "2",
        "--set", "target_modules=[q_proj,k_proj,v_proj,o_proj,up_proj]", "--num-samples", "2",
        "--output-dir",
    ]  # fmt: skip


# What each process runs: commands with their standard input.
SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from pathlib import Path
from accelerate import Accelerator
from blob_pyro.cli import app

printed = []
for arguments, stdin in json.loads(sys.argv[1]):
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with redirect_stdout(io.StringIO()) as out:
        app(arguments, standalone_mode=False)
    printed.append(out.getvalue())
Path(f"printed-{Accelerator().process_index}.json").write_text(json.dumps(printed))
"""


def in_two_processes(folder: Path, commands: list[Any], **environment: str) -> str:
    """Run commands, each with its standard input, in two processes; give what they say."""
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, *TORCHRUN, "script.py", json.dumps(commands)]
    result = subprocess.run(
        command, env={**ENVIRONMENT, **environment}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_two_processes_train_and_measure_as_one(
    train: list[str], posterior: str, tmp_path: Path
) -> None:
    # Training is last: it ends the group of processes.
    evaluate = ["evaluate", posterior, "--data", "tickets.csv", "--num-samples", "2"]
    in_two_processes(tmp_path, [(evaluate, ""), ([*train, "two"], "")])
    printed = json.loads((tmp_path / "printed-0.json").read_text())
    assert [each.count("accuracy") for each in printed] == [1, 1]
    assert json.loads((tmp_path / "printed-1.json").read_text()) == ["", ""]
    card = ModelCard.load(tmp_path / "two" / "README.md", repo_type="model")
    on_card = {result.metric_type: result.metric_value for result in card.data.eval_results}
    # What one process says of the same posterior and the same texts.
    test = read_table(tmp_path / "tickets.csv").splits["test"]
    assert len(test) == 2
    labels = [("login", "printing")[label] for label in test["label"]]
    alone = load(tmp_path / "two").evaluate(list(test["text"]), labels, num_samples=2)
    assert on_card == pytest.approx(alone.metrics(), abs=1e-4)


def test_the_same_seed_gives_the_same_folder_and_a_relative_model_is_found_again(
    train: list[str], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "blob_pyro", *train, seed],
            env={**ENVIRONMENT, "PYTHONHASHSEED": seed}, cwd=tmp_path, check=True,
        )  # fmt: skip
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "12"
    )
    assert one == other
    assert "posterior.safetensors" in one
    # The tests have another working directory.
    result = invoke("predict", str(tmp_path / "1"), "the toner", "--json")
    assert result.exit_code == 0, result.output


def test_two_processes_read_predict_and_write_each_row_once_and_in_order(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    texts = ["the toner " * (1 + n % 3) + str(n) for n in range(7)]
    (tmp_path / "in.csv").write_text("\n".join(["text", *texts]))
    lines = "".join(json.dumps({"id": n, "text": f"my phone {n}"}) + "\n" for n in range(5))
    table = ["predict", posterior, "--data", str(tmp_path / "in.csv"), "--num-samples", "2"]
    stream = ["predict", posterior, "-", "--batch-size", "3", "--num-samples", "2"]
    distill = ["distill", posterior, "--output-dir", "student", "--num-steps", "2"]
    commands = [([*table, "--output", "two.csv"], ""), (stream, lines), (distill, lines)]
    said = in_two_processes(tmp_path, commands)
    for line in ("wrote two.csv, 7 rows", "wrote student"):
        assert said.count(line) == 1, said
    assert json.loads((tmp_path / "printed-1.json").read_text()) == ["", "", ""]
    # One process answers alike.
    assert invoke(*table, "--output", str(tmp_path / "one.csv")).exit_code == 0
    one, two = (pandas.read_csv(tmp_path / name) for name in ("one.csv", "two.csv"))
    assert two["text"].tolist() == texts
    assert two["probability"].nunique() > 3
    pandas.testing.assert_frame_equal(one, two, rtol=1e-4)
    printed = json.loads((tmp_path / "printed-0.json").read_text())[1].splitlines()
    alone = invoke(*stream, stdin=lines.encode()).stdout.splitlines()
    for number, (line, wanted) in enumerate(zip(printed, alone, strict=True)):
        answer, expected = json.loads(line), json.loads(wanted)
        assert answer["id"] == number
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], rel=1e-4)
    assert load(tmp_path / "student").predict(["my phone"]).shape == (1,)


def test_a_divided_network_predicts_and_is_trained_past_the_death_of_a_process(
    train: list[str], posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    # More steps than are taken before the process is killed.
    command = [*train, "trained", "--num-steps", "60", "--save-every", "1"]
    launched = subprocess.Popen(
        [sys.executable, *TORCHRUN, "-m", "blob_pyro", *command],
        env={**ENVIRONMENT, **FSDP}, cwd=tmp_path, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoints, third = tmp_path / "trained-checkpoints", "step-00000003.safetensors"
    while not (checkpoints / third).exists():
        assert launched.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(launched.pid).children()
    workers[1].kill()
    began = time.monotonic()
    assert launched.wait(timeout=30) != 0
    print(f"all processes had ended after {time.monotonic() - began:.1f} s")
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "trained").exists()
    table = ["predict", posterior, "--data", str(tmp_path / "tickets.csv"), "--num-samples", "2"]
    commands = [([*table, "--output", "two.csv"], ""), ([*command, "--resume"], "")]
    said = in_two_processes(tmp_path, commands, **FSDP)
    assert said.count("wrote trained") == 1, said
    # One process answers alike, and loads what was saved.
    assert invoke(*table, "--output", str(tmp_path / "one.csv")).exit_code == 0
    one, two = (pandas.read_csv(tmp_path / name) for name in ("one.csv", "two.csv"))
    pandas.testing.assert_frame_equal(one, two, rtol=1e-4)
    card = ModelCard.load(tmp_path / "trained" / "README.md", repo_type="model")
    on_card = {result.metric_type: result.metric_value for result in card.data.eval_results}
    test = read_table(tmp_path / "tickets.csv").splits["test"]
    labels = [("login", "printing")[label] for label in test["label"]]
    alone = load(tmp_path / "trained").evaluate(list(test["text"]), labels, num_samples=2)
    assert on_card == pytest.approx(alone.metrics(), abs=1e-4)
