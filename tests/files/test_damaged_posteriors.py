"""Posteriors damaged in many ways, with right checksums: refused by name, or just as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, LlamaForCausalLM

from blob_pyro import load_posterior, save_posterior
from blob_pyro.files.task import recorded_task
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.testing import tiny_batch, tiny_network
from tests.files.damage import Damage, content, entry, fifo, gone, tensors, vouch

# PEFT warns of what it finds strange before anything breaks.
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG, ADAPTER, WEIGHTS, SCALES = (
    "posterior_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "posterior.safetensors",
)
TASK = {
    "name": "tickets",
    "kind": "texts",
    "class_names": ["a", "b", "c"],
    "prompt": "{text}:",
    "words": [],
    "source": {
        "path": "o/n",
        "config": "c",
        "splits": {"test": "t"},
        "text": "{x}",
        "text_pair": None,
    },
    "scoring": "options",
}
ANSWERS: Any = {"label_token_ids": [7, 9, 11], "num_data": 8}


@pytest.fixture(scope="module", params=["llama", "bert"])
def saved(request: Any, tmp_path_factory: Any) -> tuple[Path, Any, torch.Tensor]:
    """A posterior, its base model, and what it predicts."""
    above = tmp_path_factory.mktemp(request.param)
    net = tiny_network(request.param, "CAUSAL_LM" if request.param == "llama" else "SEQ_CLS")
    model: Any = LabelTokenClassifier(net, **ANSWERS) if request.param == "llama" else None
    model = (model or SequenceClassifier(net, 8)).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.2)
    record = TASK if request.param == "llama" else {**TASK, "scoring": "head"}
    save_posterior(above / "p", model, guide, task=record)
    expected = predicted(model, guide)
    base = net.unload()
    base.save_pretrained(above / "base")
    return above / "p", above / "base", expected


def predicted(model: Any, guide: Any) -> torch.Tensor:
    batch = {name: t for name, t in tiny_batch().items() if name != "labels"}
    return posterior_predictive(model, guide, [batch], 2, 0, progress=False)["logits"]


def load(folder: Path, base: Path) -> torch.Tensor:
    """What a reader makes of a folder: program, task and predictions."""
    is_llama = json.loads((base / "config.json").read_text())["model_type"] == "llama"
    kind: Any = LlamaForCausalLM if is_llama else BertForSequenceClassification
    model, guide = load_posterior(folder, kind.from_pretrained(base))
    config = json.loads((folder / CONFIG).read_text())
    try:
        recorded_task(config["task"])
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    return predicted(model, guide)


def first(file: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Change the first tensor of a file."""

    def changed(content: dict[str, Any]) -> dict[str, Any]:
        name = min(content)
        return {**content, name: change(content[name])}

    return tensors(file, changed)


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


NAN, INF = float("nan"), float("inf")
ALL = (CONFIG, ADAPTER, WEIGHTS, SCALES)
DAMAGES: dict[str, Damage] = {
    **{f"{file} cut": content(file, lambda old: old[:-9]) for file in ALL},
    **{f"{file} empty": content(file, lambda _: b"") for file in ALL},
    **{f"{file} of zeros": content(file, lambda old: bytes(len(old))) for file in ALL},
    **{f"{file} is a list": content(file, lambda _: b"[]") for file in ALL},
    **{f"{file} is deep": content(file, lambda _: b"[" * 100_000) for file in ALL},
    **{f"{file} is a FIFO": fifo(file) for file in ALL},
    **{f"{file} gone": gone(file) for file in ALL},
    **{
        f"{file} holds {value}": first(file, filled(value))
        for file in (WEIGHTS, SCALES)
        for value in (NAN, INF, -INF)
    },
    **{
        f"{file} of {dtype}": first(file, lambda t, dtype=dtype: t.to(dtype))  # type: ignore[misc]
        for file in (WEIGHTS, SCALES)
        for dtype in (torch.int64, torch.bool, torch.complex64)
    },
    **{
        f"{file} lacks a key": tensors(file, lambda c: dict(sorted(c.items())[1:]))
        for file in (WEIGHTS, SCALES)
    },
    **{
        f"{file} has a key more": tensors(file, lambda c: {**c, "x": torch.zeros(1)})
        for file in (WEIGHTS, SCALES)
    },
    **{f"{file} transposed": first(file, lambda t: t.T) for file in (WEIGHTS, SCALES)},
    **{f"{file} flat": first(file, lambda t: t.flatten()) for file in (WEIGHTS, SCALES)},
    **{f"{file} longer": first(file, lambda t: torch.cat([t, t])) for file in (WEIGHTS, SCALES)},
    **{f"{file} no numbers": first(file, lambda t: t[:0]) for file in (WEIGHTS, SCALES)},
    "a scale of zero": first(SCALES, filled(0.0)),
    "a scale that overflows": first(SCALES, filled(1e30)),
    **{
        f"temperature {value}": entry(CONFIG, "model", "temperature", to=value)
        for value in (
            NAN,
            INF,
            0,
            -1,
            "1",
            None,
            True,
            [1.0, 2.0],
            [1.0, NAN, 1.0],
            [1.0, 0.0, 1.0],
        )
    },
    **{
        f"num_classes {value}": entry(CONFIG, "model", "num_classes", to=value)
        for value in (0, -3, 77, 10**9, None, "3", 3.5, True)
    },
    **{
        f"num_data {value}": entry(CONFIG, "model", "num_data", to=value)
        for value in (0, -8, NAN, "8", None, True, 8.5)
    },
    **{
        f"{'.'.join(path)} gone": entry(CONFIG, *path)
        for path in (
            *(("format_version",), ("guide",), ("model",), ("base_model",), ("adapter",)),
            *(("task",), ("versions",), ("sha256",), ("guide", "class"), ("guide", "arguments")),
            *(("model", "class"), ("model", "prior"), ("model", "latent"), ("model", "arguments")),
            *(("base_model", "shapes"), ("base_model", "weights"), ("base_model", "dtype")),
            *(("base_model", "config"), ("adapter", "float32"), ("method",), ("pooling",)),
        )
    },
    **{
        f"{'.'.join(path)} is {value!r:.20}": entry(CONFIG, *path, to=value)
        for path, value in [
            (("versions",), {}),
            (("versions", "torch"), 2),
            (("versions",), None),
            (("format_version",), 4),
            (("format_version",), "3"),
            (("format_version",), True),
            (("something",), 1),
            (("model", "something"), 1),
            (("guide", "class"), "PointEstimateGuide"),
            (("guide", "arguments", "init_scale"), NAN),
            (("guide", "arguments", "init_scale"), -1),
            (("guide", "arguments", "parameterization"), "cube"),
            (("model", "prior", "class"), "Normal"),
            (("model", "prior", "arguments", "scale"), 0),
            (("model", "prior", "arguments", "scale"), NAN),
            (("model", "prior", "arguments", "scale"), [0.2]),
            (("model", "latent"), []),
            (("model", "latent"), ["B"]),
            (("model", "latent"), ["A", "B"]),
            (("model", "class"), "CausalLM"),
            (("model", "class"), "os.system"),
            (("base_model", "dtype"), "int64"),
            (("base_model", "saved_modules"), [""]),
            (("base_model", "weights"), "0" * 64),
            (("base_model", "weights"), None),
            (("base_model", "shapes"), None),
            (("base_model", "config", "hidden_act"), "relu"),
            (("pooling",), "max"),
            (("method",), 3),
            (("adapter", "float32"), "yes"),
        ]
    },
    **{
        f"task.{name} is {value!r:.30}": entry(CONFIG, "task", name, to=value)
        for name, value in [
            ("class_names", ["a", "b"]),
            ("class_names", ["a", "a", "b"]),
            ("class_names", [f"{number}" for number in range(77)]),
            ("class_names", "abc"),
            ("class_names", ["a", "b", 3]),
            ("words", ["x"]),
            ("prompt", "no field"),
            ("kind", "questions"),
            ("scoring", "guess"),
            ("source", {}),
            ("source", {**TASK["source"], "path": "../../etc"}),  # type: ignore[dict-item]
            ("source", {**TASK["source"], "config": "/etc"}),  # type: ignore[dict-item]
            ("source", {**TASK["source"], "splits": {"test": "../x"}}),  # type: ignore[dict-item]
            ("source", {**TASK["source"], "text": "{x:9999999999}"}),  # type: ignore[dict-item]
            ("source", {**TASK["source"], "text": "{x.__class__}"}),  # type: ignore[dict-item]
            ("name", None),
            ("name", 3),
        ]
    },
    **{
        f"{name} is {value!r:.30}": entry(ADAPTER, name, to=value)
        for name, value in [
            ("peft_type", "IA3"),
            ("r", 10**9),
            ("r", 3),
            ("r", 0),
            ("r", "2"),
            ("r", NAN),
            *(("lora_alpha", value) for value in (NAN, INF, 0, -4, "4", None, True)),
            *(("lora_dropout", value) for value in (NAN, 1.5, -0.1)),
            ("use_rslora", "yes"),
            ("target_modules", "(a+)+$"),
            ("target_modules", []),
            ("target_modules", None),
            ("exclude_modules", "(.*)*x"),
            ("layers_pattern", ["(a|a)*b"]),
            ("rank_pattern", {"(.*.*.*)*x": 2}),
            ("rank_pattern", {"query": 10**9}),
            ("rank_pattern", {"q_proj": 1, "query": 1}),
            ("alpha_pattern", {"q_proj": NAN, "query": NAN}),
            ("modules_to_save", ["(.*)*x"]),
            ("modules_to_save", [""]),
            ("modules_to_save", ["embed_tokens", "embeddings"]),
            ("layer_replication", [[0, 100_000]]),
            ("bias", "all"),
            ("use_dora", True),
            ("init_lora_weights", "pissa"),
            ("trainable_token_indices", [1]),
            ("megatron_config", {"a": 1}),
            ("alora_invocation_tokens", [1]),
            ("target_parameters", ["a"]),
            ("a_switch_of_the_future", True),
            *(("task_type", value) for value in ("QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", None)),
            ("fan_in_fan_out", True),
        ]
    },
}
# Nothing that is read is damaged, so nothing that is predicted may differ.
HARMLESS = (
    "target_modules",
    "exclude_modules",
    "layers_pattern",
    "init_lora",
    "method",
    "fan_in",
    "r is 1000000000",
    "r is 3",
    "rank_pattern",
    "base_model.config gone",
    "pooling",
    "task_type",
)


def test_there_are_many_damages() -> None:
    assert len(DAMAGES) >= 60


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_posterior_is_refused_or_predicts_as_before(
    what: str, saved: tuple[Path, Any, torch.Tensor], tmp_path: Path
) -> None:
    whole, base, expected = saved
    folder = tmp_path / "p"
    shutil.copytree(whole, folder)
    DAMAGES[what](folder)
    if what != "sha256 gone":
        vouch(folder)
    try:
        found, message = load(folder, base), ""
    except ValueError as error:
        found, message = expected, f"{type(error).__name__}: {error}"
    if message:
        assert message.startswith("ValueError")
        assert str(folder) in message
    else:
        assert torch.equal(found, expected), what
        assert what.startswith(HARMLESS), f"{what} is taken for a whole posterior"
