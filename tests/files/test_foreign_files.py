"""Files that are anything at all: loaders refuse them by name, and with their own errors only."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from blob_pyro import import_bayesian_peft, load_posterior, save_posterior
from blob_pyro.benchmark import read_config
from blob_pyro.files.config import HASHED_FILES
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.recipe.predictions import Predictions, load_predictions
from blob_pyro.tasks import read_table
from blob_pyro.tasks.text_files import json_lines
from tests.files.damage import vouch

# PEFT warns of what it finds strange before anything breaks.
pytestmark = pytest.mark.filterwarnings("ignore")
many = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(many, max_examples=15)
ANSWERS = partial(LabelTokenClassifier, label_token_ids=[3, 4, 5], num_data=7)

json_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_subnormal=False)  # a command run before may have flushed those
    | st.text(max_size=8)
    | st.sampled_from(["../../x", "LORA", "Classifier", "load", 1 << 70, [], {}, [[]], "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def refuses(load: Callable[[], Any], name: str) -> None:
    """A load works, or raises a ValueError that names the file or folder."""
    try:
        load()
    except ValueError as error:
        if name not in str(error):
            raise AssertionError(f"no {name} in the message of {error!r}") from error


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file that is cut, has other bytes somewhere, or is something else."""
    kind = draw(st.sampled_from(["cut", "bytes", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=60))
    place = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:place]
    other = draw(st.binary(min_size=1, max_size=8))
    return content[:place] + other + content[place + draw(st.integers(0, 8)) :]


@st.composite
def altered(draw: Any, content: Any) -> Any:
    """A JSON document of which one part is absent or something else."""
    content = copy.deepcopy(content)
    part, key = {"": content}, ""
    while isinstance(part[key], dict | list) and part[key] and draw(st.integers(0, 3)):
        part = part[key]
        key = draw(st.sampled_from([*part] if isinstance(part, dict) else [*range(len(part))]))
    if part is not content and isinstance(part, dict) and key and draw(st.booleans()):
        del part[key]
        return content
    replaced = draw(json_values)
    if key == "":
        return replaced
    part[key] = replaced
    return content


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, num_attention_heads=1, **sizes))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def posterior() -> dict[str, bytes]:
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    model = ANSWERS(get_peft_model(base(), lora))
    with tempfile.TemporaryDirectory() as above:
        save_posterior(Path(above) / "p", model, LowRankGaussianGuide(model), task={"kind": "x"})
        return files_of(Path(above) / "p")


@pytest.fixture(scope="module")
def of_the_paper() -> dict[str, bytes]:
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {
        f"{layer}A.weight": torch.ones(2, 8),
        f"{layer}B.weight": torch.ones(8, 2),
        f"{layer}A_rho": torch.ones(2, 8),
    }
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
    return {
        "adapter_model.safetensors": save(tensors),
        "adapter_config.json": json.dumps(config).encode(),
    }


def load_with_right_checksums(folder: Path) -> Any:
    vouch(folder)
    return load_posterior(folder, base())


@pytest.mark.parametrize("name", HASHED_FILES)
@few
@given(data=st.data())
def test_a_posterior_with_a_damaged_file(name: str, posterior: dict[str, bytes], data: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="posterior") as folder:
        write(Path(folder), posterior | {name: data.draw(damaged(posterior[name]))})
        refuses(lambda: load_posterior(folder, base()), folder)
        refuses(lambda: load_with_right_checksums(Path(folder)), folder)


@pytest.mark.parametrize("name", ["posterior_config.json", "adapter_config.json"])
@many
@given(data=st.data())
def test_a_posterior_with_altered_settings(
    name: str, posterior: dict[str, bytes], data: Any
) -> None:
    content = data.draw(altered(json.loads(posterior[name])))
    with tempfile.TemporaryDirectory(prefix="posterior") as folder:
        write(Path(folder), posterior | {name: json.dumps(content).encode()})
        refuses(lambda: load_with_right_checksums(Path(folder)), folder)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@few
@given(data=st.data())
def test_a_damaged_file_of_the_papers_code(
    name: str, of_the_paper: dict[str, bytes], data: Any
) -> None:
    with tempfile.TemporaryDirectory(prefix="paper") as folder:
        write(Path(folder), of_the_paper | {name: data.draw(damaged(of_the_paper[name]))})
        refuses(lambda: import_bayesian_peft(folder, base(), likelihood=ANSWERS), folder)


@many
@given(data=st.data())
def test_altered_settings_of_the_papers_code(of_the_paper: dict[str, bytes], data: Any) -> None:
    name = "adapter_config.json"
    content = data.draw(altered(json.loads(of_the_paper[name])))
    with tempfile.TemporaryDirectory(prefix="paper") as folder:
        write(Path(folder), of_the_paper | {name: json.dumps(content).encode()})
        refuses(lambda: import_bayesian_peft(folder, base(), likelihood=ANSWERS), folder)


@many
@given(data=st.data())
def test_a_damaged_evaluation(data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evaluation.npz"
        logits = np.zeros((2, 3, 4), np.float32)
        Predictions(logits, np.zeros(3, np.int64), np.asarray(["a", "b", "c"])).save(path)
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        refuses(lambda: load_predictions(path), str(path))


BENCHMARK = {
    "model": "m",
    "seeds": [0, 1],
    "max_test": 5,
    "training": {"num_steps": 1, "rank": 2},
    "tasks": {"openbookqa": {"max_train": 4, "ood": ["ai2_arc_easy"]}},
    "methods": {"blob": {"init_scale": 0.09, "num_samples": [0, 2], "target_modules": ["q_proj"]}},
}


@settings(many, max_examples=150)
@given(st.data())
def test_a_benchmark_of_anything(data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.yaml"
        text = yaml.safe_dump(data.draw(altered(BENCHMARK)), allow_unicode=False).encode()
        path.write_bytes(data.draw(st.just(text) | damaged(text)))
        refuses(lambda: read_config(path), str(path))


@pytest.mark.parametrize(
    "text",
    ["a: 2026-99-99", "a: 0x_", "[" * 1200, "{" * 1200, "{[1]: 2}", "!!binary x", "&a [*a]"],
)
def test_yaml_that_its_parser_does_not_refuse(text: str, tmp_path: Path) -> None:
    path = tmp_path / "benchmark.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"benchmark.yaml(: | cannot be used)"):
        read_config(path)


def test_yaml_that_grows_when_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path.write_text("\n".join([*lines, "tasks: *a11", "model: m", "methods: {a: {}}"]))
    with pytest.raises(ValueError, match=r"benchmark.yaml: .* is no setting") as error:
        read_config(path)
    assert len(str(error.value)) < 1000
    path.write_text("\n".join(["model:", *(f"  - {line[4:]}" for line in lines)]))
    with pytest.raises(ValueError, match=r"benchmark.yaml"):
        read_config(path)


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "", "a\nb"])
def test_a_method_cannot_name_a_file_elsewhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump({**BENCHMARK, "methods": {name: {}}}))
    with pytest.raises(ValueError, match="use letters, digits, spaces"):
        read_config(path)


def test_a_subject_cannot_name_a_folder_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump({**BENCHMARK, "tasks": {"mmlu_../../etc": {}}}))
    with pytest.raises(ValueError, match=r"the task 'mmlu_../../etc' is unknown"):
        read_config(path)


LINES = b'{"text": "a", "label": "x"}\n{"text": "b", "label": 2}\n{"text": "c", "label": "x"}'
CSV = b'text,label\na,x\n"b, c",y\nd,x\n'


@pytest.mark.parametrize(("ending", "content"), [("jsonl", LINES), ("csv", CSV)])
@settings(many, max_examples=100)
@given(data=st.data())
def test_a_table_of_anything(ending: str, content: bytes, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"messages.{ending}"
        path.write_bytes(data.draw(damaged(content)))
        refuses(lambda: read_table(path, test_fraction=0), "messages")
        refuses(lambda: [*json_lines(path)], "messages")


@settings(many, max_examples=100)
@given(st.lists(altered({"text": "a", "label": "x"}), min_size=1, max_size=3))
def test_rows_of_anything(contents: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "messages.jsonl"
        path.write_text("\n".join(map(json.dumps, contents)))
        refuses(lambda: read_table(path, test_fraction=0), "messages")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"text": "\\ud800", "label": "a"}'])
def test_json_that_its_parser_does_not_refuse(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"t.jsonl, line 1: "):
        [*json_lines(path)]
