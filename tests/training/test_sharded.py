"""Two real processes, each of which holds a part of a tiny Llama, against one that holds it all."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from datasets import DatasetDict
from safetensors.torch import load_file

from blob_pyro import load_posterior
from blob_pyro.infer import generate
from blob_pyro.models import BayesianLora
from blob_pyro.networks import sharding
from blob_pyro.recipe import Posterior
from blob_pyro.tasks import TextClassificationTask

SCRIPT = Path(__file__).with_name("sharded_run.py")
# What accelerate launch gives its processes; torchrun starts them on CPUs, where it would not.
FSDP = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def runs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes wrote what they ended with."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    result = subprocess.run(
        [*launch, str(SCRIPT), str(folder)],
        env={**os.environ, **FSDP, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["joint", "kl_optim", "both"])
def test_ten_steps_end_where_those_of_one_process_do(name: str, folder: Path, runs: Any) -> None:
    two, start = load_file(folder / "two"), runs.learned(*runs.program())
    _, _, alone = runs.run(name, accumulation_steps=2)
    moved = []
    for key, tensor in alone.items():
        assert (tensor - two[f"{name}/{key}"]).abs().max() < 1e-5, key
        moved.append((tensor - start[key]).abs().max())
    assert max(moved) > 1e-2


def test_a_run_that_was_stopped_goes_on_bit_for_bit(folder: Path) -> None:
    two = load_file(folder / "two")
    resumed = {key: value for key, value in two.items() if key.startswith("resumed/")}
    assert resumed
    for key, value in resumed.items():
        assert torch.equal(value, two[key.replace("resumed/", "joint/")]), key


def test_one_process_loads_what_two_saved_and_predicts_alike(folder: Path, runs: Any) -> None:
    base = runs.program()[0].network.unload()
    model, guide = load_posterior(folder / "posterior", base)
    found = runs.predict(model, guide)
    assert found.shape == (3, 8, 3)
    assert (found - load_file(folder / "two")["predicted"]).abs().max() < 1e-5


def test_accelerate_takes_the_file_of_the_page_and_so_do_we(tmp_path: Path) -> None:
    page = (SCRIPT.parents[2] / "docs" / "training.md").read_text()
    (content,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "fsdp.yaml").write_text(content)
    # It refuses unknown keys at the top.
    settings = ClusterConfig.from_yaml_file(tmp_path / "fsdp.yaml").fsdp_config
    assert {*settings} <= {action.dest for action in launch_command_parser()._actions}
    version = settings.pop("fsdp_version")
    options = {name.removeprefix("fsdp_"): value for name, value in settings.items()}
    plugin = sharding.fsdp_plugin(accelerator(fsdp_version=version, **options))
    assert plugin is not None
    assert plugin.reshard_after_forward is True


def accelerator(**options: Any) -> Any:
    plugin = FullyShardedDataParallelPlugin(
        **{"fsdp_version": 2, "cpu_ram_efficient_loading": False, **options}
    )
    return SimpleNamespace(
        distributed_type=DistributedType.FSDP,
        state=SimpleNamespace(fsdp_plugin=plugin),
        num_processes=2,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsdp_version": 1}, "fsdp_version is 1, .* with fsdp_version: 2"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading is True"),
        ({"cpu_offload": True}, "fsdp_offload_params is True"),
        ({"activation_checkpointing": True}, "fsdp_activation_checkpointing is True"),
    ],
)
def test_what_was_not_run_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding.fsdp_plugin(accelerator(**options))


def test_deepspeed_is_refused() -> None:
    told = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="DeepSpeed divides what is trained too"):
        sharding.fsdp_plugin(told)


def test_a_network_that_cannot_be_divided_is_refused(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = runs.program()
    told = accelerator(
        auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["GPT2Block"]
    )
    with pytest.raises(ValueError, match=r"no layers of the classes \['GPT2Block'\], so FSDP"):
        sharding.place(model, told)
    # Another process made its network from another seed.
    monkeypatch.setattr(sharding, "gather_object", lambda mine: [*mine, {}])
    with pytest.raises(ValueError, match="hold different weights of a LlamaForSequenceClassif"):
        sharding.place(model, accelerator())
    layer = model.network.base_model.model.model.layers[0]
    weight = layer.mlp.up_proj.weight.data.to(torch.int8)
    layer.mlp.up_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ValueError, match=r"weights of torch.int8 cannot be divided"):
        sharding.place(model, accelerator())
    assert not model.is_sharded


def test_what_a_divided_network_does_not_do_is_refused(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide = runs.program()
    monkeypatch.setattr(BayesianLora, "is_sharded", True)
    with pytest.raises(ValueError, match="divided among processes, which may end their texts"):
        generate(model, guide, torch.tensor([[5, 6]]))
    names = ("login", "printing", "phone")
    task = TextClassificationTask("desk", DatasetDict(), names)
    with pytest.raises(ValueError, match=r"needs a copy of the network, .* distill without FSDP"):
        Posterior(model, guide, None, task).distill(["a"])
    config = runs.TrainingConfig(compile=True)
    with pytest.raises(ValueError, match="leave compile out"):
        runs.fit(model, guide, None, runs.DATA, None, config, accelerator=accelerator())
