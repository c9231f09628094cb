from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import softmax

from blob_pyro import export_draws
from blob_pyro.guides import DropoutGuide


def base_of(model: Any) -> Any:
    return copy.deepcopy(model.network).unload()


@pytest.mark.parametrize("num_samples", [0, 3])
def test_unmodified_peft_predicts_as_each_draw(
    num_samples: int, tmp_path: Path, program: Any, predict: Any, inputs: Any, plain_logits: Any
) -> None:
    model, guide = program()
    paths = export_draws(tmp_path / "draws", model, guide, num_samples, seed=5)
    expected = predict(model, guide, num_samples, seed=5)
    assert len(paths) == len(expected) == max(1, num_samples)
    tokens = [*model.label_token_ids]
    for path, logits in zip(paths, expected, strict=True):
        net = PeftModel.from_pretrained(base_of(model), str(path)).eval()
        torch.testing.assert_close(plain_logits(net, inputs, tokens), logits, atol=1e-5, rtol=0)


def test_masks_of_dropout_are_exported_in_training_mode_too(
    tmp_path: Path, classifier: Any, predict: Any, inputs: Any, plain_logits: Any
) -> None:
    model = classifier("llama", lora_dropout=0.5)
    guide = DropoutGuide(model.train())
    expected = predict(model, guide, 3, seed=5)
    assert expected.std(dim=0).max() > 1e-2
    paths = export_draws(tmp_path / "draws", model, guide, 3, seed=5)
    for path, logits in zip(paths, expected, strict=True):
        net = PeftModel.from_pretrained(base_of(model), str(path)).eval()
        found = plain_logits(net, inputs, [*model.label_token_ids])
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)


def test_a_served_network_switches_between_draws(
    tmp_path: Path, program: Any, predict: Any, inputs: Any, plain_logits: Any
) -> None:
    model, guide = program()
    first, *others = export_draws(tmp_path / "draws", model, guide, 4, seed=1)
    net = PeftModel.from_pretrained(base_of(model), str(first), first.name).eval()
    for path in others:
        net.load_adapter(str(path), path.name)
    tokens, probabilities = [*model.label_token_ids], []
    for path in (first, *others):
        net.set_adapter(path.name)
        probabilities.append(softmax(plain_logits(net, inputs, tokens), -1))
    expected = predict(model, guide, 4, seed=1).softmax(-1)
    assert expected.std(0).max() > 1e-2
    torch.testing.assert_close(torch.stack(probabilities), expected, atol=1e-5, rtol=0)


def test_the_global_random_state_is_left_alone(tmp_path: Path, program: Any) -> None:
    model, guide = program()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    export_draws(tmp_path / "draws", model, guide, 2, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_overwritten_or_left_half_written(
    tmp_path: Path, program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide = program()
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty; give a new folder"):
        export_draws(tmp_path, model, guide)
    with pytest.raises(ValueError, match="a exists and is not empty"):
        export_draws(tmp_path / "a", model, guide)
    with pytest.raises(ValueError, match="num_samples=-1: give the number of draws"):
        export_draws(tmp_path / "b", model, guide, -1)
    written: list[Any] = []

    def full_disk(*arguments: Any) -> None:
        written.append(arguments)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("blob_pyro.files.export.write_adapter", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_draws(tmp_path / "b", model, guide)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
