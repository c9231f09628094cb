"""The README's own script and commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_script_runs(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    script = blocks("python")[1]
    assert len(script.splitlines()) <= 30
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, hidden_dim=24, n_layers=1, n_heads=2, pad_token_id=1
    )
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path)
    script = script.replace('"distilbert-base-uncased"', repr(str(tmp_path)))
    assert str(tmp_path) in script
    exec(compile(script.replace("range(100)", "range(2)"), "README.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


def test_the_first_script_runs(
    tmp_path: Path, base_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text("body,queue\n" + "no toner,printing\nlocked out,login\n" * 4)
    script = blocks("python")[0]
    assert len(script.splitlines()) <= 8
    script = script.replace('"distilbert-base-uncased"', f"{base_folder!r}, num_steps=1")
    names: dict[str, Any] = {}
    exec(compile(script, "README.md", "exec"), names)
    assert list(names["posterior"].classes_) == ["login", "printing"]


def test_there_are_exactly_two_set_up_commands() -> None:
    commands = re.findall(r"<!-- (\w+) command -->\n```bash\n(.+)\n```", README)
    assert [name for name, _ in commands] == ["demo", "test"]
    for _, line in commands:
        assert line.startswith("python3 -m venv .venv && ")
        assert "constraints.txt" in line


def test_pinned_torch_is_the_one_that_runs() -> None:
    constraints = (Path(__file__).parents[1] / "constraints.txt").read_text()
    assert f"torch=={torch.__version__.split('+')[0]}" in constraints
