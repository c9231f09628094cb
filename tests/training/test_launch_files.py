"""The page's files for ``accelerate launch`` are ones that accelerate reads as they are meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
OPTIONS = {action.dest for action in launch_command_parser()._actions}


def block(language: str, name: str) -> str:
    """The one code block of the page in a language that holds a name."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    (found,) = [block for block in blocks if name in block]
    return str(found)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """Read a block as accelerate does, which refuses unknown keys at the top."""

    def read(name: str) -> ClusterConfig:
        (tmp_path / "file.yaml").write_text(block("yaml", name))
        return ClusterConfig.from_yaml_file(tmp_path / "file.yaml")

    return read


def test_the_keys_are_options_of_accelerate_launch(config: Any) -> None:
    fsdp, deepspeed = config("distributed_type: FSDP"), config("distributed_type: DEEPSPEED")
    assert {*fsdp.fsdp_config} <= OPTIONS
    assert {*deepspeed.deepspeed_config} <= OPTIONS
    assert deepspeed.deepspeed_config["deepspeed_config_file"] == "zero3.json"
    zero = json.loads(block("json", "zero_optimization"))
    # The one stage that shards parameters.
    assert zero["zero_optimization"] == {"stage": 3}


def test_every_layer_is_a_shard_of_its_own(config: Any, classifier: Any) -> None:
    settings = config("distributed_type: FSDP").fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=settings["fsdp_version"],
        auto_wrap_policy=settings["fsdp_auto_wrap_policy"],
        transformer_cls_names_to_wrap=[settings["fsdp_transformer_layer_cls_to_wrap"]],
        reshard_after_forward=settings["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=settings["fsdp_cpu_ram_efficient_loading"],
    )
    model = classifier("llama")
    module = ReweightedTrace_ELBO(1)(model, LowRankGaussianGuide(model))
    wrap = fsdp2_prepare_auto_wrap_policy(plugin, module)
    assert sum(map(wrap, module.modules())) == model.network.config.num_hidden_layers == 2
    # What the page warns of.
    plugin.transformer_cls_names_to_wrap = None
    assert not any(map(fsdp2_prepare_auto_wrap_policy(plugin, module), module.modules()))
