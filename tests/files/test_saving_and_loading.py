from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from blob_pyro import generate, load_posterior, save_posterior
from blob_pyro.files import loading, posterior_task
from blob_pyro.files.config import read_posterior_config
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior
from blob_pyro.models import CausalLM, LabelTokenClassifier, SequenceClassifier
from blob_pyro.networks.identity import sampled_values
from tests.files.damage import vouch

TOKENS = [3, 4, 5]
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
}


def llama(**options: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **options}))


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))


def program(network: nn.Module, guide_class: Any = LowRankGaussianGuide, rank: int = 2) -> Any:
    """A fitted-looking program: no parameter where it was initialised."""
    causal = isinstance(network, LlamaForCausalLM)
    lora = LoraConfig(
        task_type="CAUSAL_LM" if causal else "SEQ_CLS",
        r=rank,
        target_modules=["q_proj", "v_proj"] if causal else ["query", "value"],
    )
    net = get_peft_model(network, lora)
    model = LabelTokenClassifier(net, TOKENS, 7) if causal else SequenceClassifier(net, 7)
    guide = guide_class(model)
    with torch.no_grad():
        for parameter in (*guide.parameters(), *model.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), guide


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(5, 60, (4, 6))}


def predicted(model: Any, guide: Any, inputs: Any, num_samples: int) -> torch.Tensor:
    return posterior_predictive(model, guide, [inputs], num_samples, 0, progress=False)["logits"]


@pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])
@pytest.mark.parametrize("network", [llama, bert])
def test_round_trip_is_exact(
    tmp_path: Path, network: Callable[[], nn.Module], guide_class: Any
) -> None:
    base = network()
    model, guide = program(copy.deepcopy(base), guide_class)
    save_posterior(tmp_path / "p", model, guide, task={"class_names": ["a", "b", "c"]})
    loaded, loaded_guide = load_posterior(tmp_path / "p", base)
    for name, value in guide.state_dict().items():
        assert torch.equal(loaded_guide.state_dict()[name], value), name
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 3), predicted(model, guide, inputs, 3)
    )
    assert (loaded.num_data, loaded.prior) == (7, NormalPrior(0.2))
    assert posterior_task(tmp_path / "p") == {"class_names": ["a", "b", "c"]}


@pytest.mark.parametrize("temperature", [1.7, [0.5, 1.25, 3.1]])
def test_a_temperature_is_kept(temperature: Any, tmp_path: Path) -> None:
    base = llama()
    model, guide = program(copy.deepcopy(base))
    model.set_temperature(torch.tensor(temperature))
    save_posterior(tmp_path / "p", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "p", base)
    assert torch.equal(loaded.temperature, model.temperature)
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 2), predicted(model, guide, inputs, 2)
    )


@pytest.mark.parametrize("network", [llama, bert])
def test_unmodified_peft_predicts_with_the_mean(
    tmp_path: Path, network: Callable[[], nn.Module]
) -> None:
    base = network()
    model, guide = program(copy.deepcopy(base))
    save_posterior(tmp_path / "p", model, guide)
    peft_model = PeftModel.from_pretrained(base, str(tmp_path / "p")).eval()
    inputs = batch()
    with torch.no_grad():
        logits = peft_model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits
    if logits.dim() == 3:
        logits = logits[:, -1, TOKENS]
    torch.testing.assert_close(logits, predicted(model, guide, inputs, 0)[0], rtol=0, atol=1e-6)


def test_the_base_model_is_found_by_name(tmp_path: Path) -> None:
    network = llama()
    network.save_pretrained(tmp_path / "base")
    model, guide = program(LlamaForCausalLM.from_pretrained(tmp_path / "base"))
    save_posterior(tmp_path / "p", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "p")
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 2), predicted(model, guide, inputs, 2)
    )


@pytest.mark.parametrize(
    ("make", "targets", "saved"),
    [
        ("distilbert", ["q_lin"], None),  # whose pre_classifier PEFT saves too
        ("bert", ["query"], ["pooler"]),
        ("llama", ["q_proj"], ["lm_head"]),
        ("llama", ["q_proj"], ["embed_tokens"]),
        ("llama", ["q_proj"], ["norm"]),
    ],
)
def test_parts_that_the_adapter_brings_need_not_be_the_bases(
    tmp_path: Path, make: str, targets: list[str], saved: list[str] | None
) -> None:
    small = DistilBertConfig(vocab_size=60, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
    network: Any = {
        "distilbert": lambda: DistilBertForSequenceClassification(small),
        "bert": bert,
        "llama": llama,
    }[make]()
    base = copy.deepcopy(network)
    lora = LoraConfig(
        task_type="CAUSAL_LM" if make == "llama" else "SEQ_CLS",
        r=2,
        target_modules=targets,
        modules_to_save=saved,
    )
    net = get_peft_model(network, lora)
    model = LabelTokenClassifier(net, TOKENS, 7) if make == "llama" else SequenceClassifier(net, 7)
    guide = LowRankGaussianGuide(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_posterior(tmp_path / "p", model.eval(), guide)
    loaded, loaded_guide = load_posterior(tmp_path / "p", base)
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 2), predicted(model, guide, inputs, 2)
    )


def test_a_part_that_was_drawn_anew_is_refused(tmp_path: Path) -> None:
    network, other = bert(), bert()
    other.load_state_dict(network.state_dict())
    torch.nn.init.normal_(other.bert.pooler.dense.weight)
    model, guide = program(network)
    save_posterior(tmp_path / "p", model, guide)
    with pytest.raises(ValueError, match="the weights of this BertForSequenceClassification di"):
        load_posterior(tmp_path / "p", other)
    # Its numbers can't be compared at another precision.
    with pytest.warns(UserWarning, match="only the names and sizes of its weights were compared"):
        load_posterior(tmp_path / "p", other.to(torch.bfloat16))


def test_a_half_precision_adapter_stays_one(tmp_path: Path) -> None:
    network = llama().to(torch.bfloat16)
    base = copy.deepcopy(network)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    net = get_peft_model(network, lora, autocast_adapter_dtype=False)
    model = LabelTokenClassifier(net, TOKENS, 7).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    save_posterior(tmp_path / "p", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "p", base)
    assert {parameter.dtype for parameter in loaded_guide.parameters()} == {torch.bfloat16}
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 2), predicted(model, guide, inputs, 2)
    )


def test_a_shard_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, guide = program(llama())
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        # What accelerate shards: model and guide in one module.
        fully_shard(ReweightedTrace_ELBO(1)(model, guide), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"holds only a shard of the guide; gather its param"):
            save_posterior(tmp_path / "p", model, guide)
    finally:
        torch.distributed.destroy_process_group()
    assert not any(tmp_path.iterdir())


def test_a_subclass_of_a_prior_is_ones_own(tmp_path: Path) -> None:
    class Own(NormalPrior):
        pass

    network = llama()
    base = copy.deepcopy(network)
    net = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model = LabelTokenClassifier(net, TOKENS, 7, prior=Own(0.3))
    save_posterior(tmp_path / "p", model, LowRankGaussianGuide(model))
    loaded, _ = load_posterior(tmp_path / "p", base, prior=Own(0.3))
    assert loaded.prior == Own(0.3)


def by_layer(site: Any) -> Any:
    return dist.Normal(torch.zeros_like(site.initial_weight), 0.7).to_event(2)


@pytest.mark.parametrize("prior", [HierarchicalNormalPrior(0.3, "site"), by_layer])
def test_a_posterior_under_another_prior_comes_back(tmp_path: Path, prior: Any) -> None:
    network = bert()
    base = copy.deepcopy(network)
    net = get_peft_model(network, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    model = SequenceClassifier(net, 7, prior=prior)
    guide = LowRankGaussianGuide(model, parameterization="exp")
    save_posterior(tmp_path / "p", model, guide)
    again = None if isinstance(prior, HierarchicalNormalPrior) else prior
    loaded, loaded_guide = load_posterior(tmp_path / "p", base, prior=again)
    for name, value in guide.state_dict().items():
        assert torch.equal(loaded_guide.state_dict()[name], value)
    torch.manual_seed(1)
    kl = guide.kl()
    torch.manual_seed(1)
    assert torch.equal(loaded_guide.kl(), kl)
    assert type(loaded.prior) is type(prior)


def test_a_prior_of_ones_own_has_to_be_given_again(tmp_path: Path) -> None:
    network = bert()
    base = copy.deepcopy(network)
    net = get_peft_model(network, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    model = SequenceClassifier(net, 7, prior=by_layer)
    save_posterior(tmp_path / "p", model, LowRankGaussianGuide(model))
    with pytest.raises(ValueError, match=r"p was fitted under the prior by_layer, .* pass prior="):
        load_posterior(tmp_path / "p", base)


def test_another_prior_than_the_saved_one_is_refused(tmp_path: Path) -> None:
    network = llama()
    base = copy.deepcopy(network)
    save_posterior(tmp_path / "p", *program(network))
    message = r"p was fitted under NormalPrior\(.*0.2.*but prior is NormalPrior\(scale=0.1\); leave"
    with pytest.raises(ValueError, match=message):
        load_posterior(tmp_path / "p", base, prior=NormalPrior(0.1))


def test_saving_asks_the_hub_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: Any, **options: Any) -> bool:
        raise AssertionError(f"asked the Hub for {arguments}")

    monkeypatch.setattr("peft.utils.other.file_exists", no_network)
    network = llama()
    network.name_or_path = network.config._name_or_path = "an-organisation/a-model"
    model, guide = program(network)
    save_posterior(tmp_path / "p", model, guide)
    config = json.loads((tmp_path / "p" / "posterior_config.json").read_text())
    assert config["base_model"]["name"] == "an-organisation/a-model"


def test_a_posterior_replaces_a_posterior_but_nothing_else(tmp_path: Path) -> None:
    base = llama()
    model, guide = program(copy.deepcopy(base))
    save_posterior(tmp_path / "p", model, guide)
    (tmp_path / "p" / "notes.txt").write_text("kept")
    with torch.no_grad():
        next(guide.G.parameters()).fill_(0.5)
    save_posterior(tmp_path / "p", model, guide)
    assert (tmp_path / "p" / "notes.txt").read_text() == "kept"
    assert next(iter(load_posterior(tmp_path / "p", base)[1].scale().values()))[0, 0] == 0.25
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="mine exists and is not a posterior"):
        save_posterior(tmp_path / "mine", model, guide)
    with pytest.raises(ValueError, match="exists and is not a posterior"):
        save_posterior(tmp_path / "mine" / "thesis.txt", model, guide)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "p"]


def test_a_failed_save_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide = program(llama())

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_posterior(tmp_path / "p", model, guide)
    assert not list(tmp_path.iterdir())


def test_a_save_that_is_interrupted_leaves_the_old_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = llama()
    model, guide = program(copy.deepcopy(base))
    save_posterior(tmp_path / "p", model, guide)
    with torch.no_grad():
        next(guide.G.parameters()).fill_(0.5)

    def interrupted(source: Any, target: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_posterior(tmp_path / "p", model, guide)
    monkeypatch.undo()
    scale = next(iter(load_posterior(tmp_path / "p", base)[1].scale().values()))
    assert scale[0, 0] != 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def damage(folder: Path, what: str) -> None:
    file = folder / "posterior.safetensors"
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif what == "bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif what == "absent":
        file.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", r"posterior.safetensors is not the file that was saved"),
        ("bit", r"posterior.safetensors is not the file that was saved"),
        ("absent", r"posterior.safetensors is missing"),
    ],
)
def test_damaged_folders_are_refused_by_file(tmp_path: Path, what: str, message: str) -> None:
    base = llama()
    save_posterior(tmp_path / "p", *program(copy.deepcopy(base)))
    damage(tmp_path / "p", what)
    with pytest.raises(ValueError, match=message):
        load_posterior(tmp_path / "p", base)


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    base = llama()
    save_posterior(tmp_path / "p", *program(copy.deepcopy(base)))
    with pytest.raises(ValueError, match="the shapes of this LlamaForCausalLM differ"):
        load_posterior(tmp_path / "p", llama(num_hidden_layers=3))
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.01)
    with pytest.raises(ValueError, match="the weights of this LlamaForCausalLM differ"):
        load_posterior(tmp_path / "p", other)
    with pytest.raises(
        ValueError, match="base_model is a PeftModel that has an adapter 'default' alr"
    ):
        load_posterior(tmp_path / "p", program(base)[0].network)


def test_a_model_that_writes_text_comes_back(tmp_path: Path) -> None:
    network = llama()
    base = copy.deepcopy(network)
    net = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model = CausalLM(net, 7).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    with torch.no_grad():
        for site in model.sites.values():
            site.lora_B.normal_()
    save_posterior(tmp_path / "p", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "p", base)
    assert type(loaded) is CausalLM
    options: Any = {**batch(), "num_samples": 2, "seed": 0, "max_new_tokens": 3}
    written = generate(model, guide, **options)
    again = generate(loaded, loaded_guide, **options)
    assert torch.equal(again.tokens, written.tokens)
    assert torch.equal(again.total, written.total)


@pytest.mark.parametrize("network", [llama, bert])
def test_several_posteriors_share_a_network(
    tmp_path: Path, network: Callable[[], nn.Module]
) -> None:
    base, inputs, expected = network(), batch(), {}
    for name, rank in (("first", 2), ("second", 3)):
        model, guide = program(copy.deepcopy(base), rank=rank)
        save_posterior(tmp_path / name, model, guide)
        expected[name] = predicted(model, guide, inputs, 3)
    first = load_posterior(tmp_path / "first", base, adapter="first")
    net = first[0].network
    second = load_posterior(tmp_path / "second", net, adapter="second")
    assert net.active_adapter == "second"
    for name, loaded in (("second", second), ("first", first), ("second", second)):
        net.set_adapter(name)
        assert torch.equal(predicted(*loaded, inputs, 3), expected[name])
    # What is saved from a network of two is the adapter that was asked for.
    save_posterior(tmp_path / "again", *first)
    again = load_posterior(tmp_path / "again", net, adapter="third")
    assert torch.equal(predicted(*again, inputs, 3), expected["first"])
    # One that is asked for no longer makes room.
    net.set_adapter("first")
    for name in ("second", "third"):
        net.delete_adapter(name)
    assert torch.equal(predicted(*first, inputs, 3), expected["first"])
    second = load_posterior(tmp_path / "second", net, adapter="second")
    assert torch.equal(predicted(*second, inputs, 3), expected["second"])


@pytest.mark.parametrize(("rank", "message"), [(3, "the ranks differ"), (None, "different sites")])
def test_tensors_of_another_fit_are_refused(tmp_path: Path, rank: int | None, message: str) -> None:
    base = llama()
    save_posterior(tmp_path / "p", *program(copy.deepcopy(base)))
    file = tmp_path / "p" / "posterior.safetensors"
    if rank is None:
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, file)
    else:
        save_posterior(tmp_path / "other", *program(copy.deepcopy(base), rank=rank))
        file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    vouch(tmp_path / "p")
    with pytest.raises(ValueError, match=message):
        load_posterior(tmp_path / "p", base)


def test_nothing_on_disk_is_a_pickle(tmp_path: Path) -> None:
    save_posterior(tmp_path / "p", *program(llama()))
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "posterior.safetensors",
        "posterior_config.json",
    ]


def test_the_method_is_recorded_but_not_needed(tmp_path: Path) -> None:
    base = llama()
    save_posterior(tmp_path / "p", *program(copy.deepcopy(base)), method="blob")
    path = tmp_path / "p" / "posterior_config.json"
    assert read_posterior_config(tmp_path / "p").method == "blob"
    # Before methods were recorded.
    config = json.loads(path.read_text())
    del config["method"]
    path.write_text(json.dumps(config))
    assert read_posterior_config(tmp_path / "p").method is None
    load_posterior(tmp_path / "p", base)


@pytest.mark.parametrize("written", [1, 2])
def test_a_folder_of_a_former_format_is_read(written: int, tmp_path: Path) -> None:
    base = llama()
    model, guide = program(copy.deepcopy(base))
    save_posterior(tmp_path / "p", model, guide)
    path = tmp_path / "p" / "posterior_config.json"
    config = json.loads(path.read_text())
    assert config["format_version"] == 3
    # Before all of the base model was digested.
    for name in ("weights", "config", "tokenizer"):
        del config["base_model"][name]
    config["base_model"]["values"] = sampled_values(base)
    if written == 1:
        # Before `B` could be latent and logits be divided by a temperature.
        del config["model"]["latent"], config["model"]["temperature"]
    path.write_text(json.dumps({**config, "format_version": written}))
    loaded, loaded_guide = load_posterior(tmp_path / "p", copy.deepcopy(base))
    assert loaded.latent == ("A",)
    assert loaded.temperature.tolist() == 1
    inputs = batch()
    assert torch.equal(
        predicted(loaded, loaded_guide, inputs, 2), predicted(model, guide, inputs, 2)
    )
    with torch.no_grad():
        base.model.norm.weight.mul_(1.01)
    with pytest.raises(ValueError, match="the values of this LlamaForCausalLM differ"):
        load_posterior(tmp_path / "p", base)


def test_files_of_two_versions_are_never_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = bert()
    base = copy.deepcopy(network)
    model, _ = program(network)
    folder = tmp_path / "p"

    def save(value: float) -> None:
        guide = LowRankGaussianGuide(model, init_scale=value)
        with torch.no_grad():
            for mean in guide.M.parameters():
                mean.fill_(value)
        save_posterior(folder, model, guide)

    def read_and_replace(path: Path) -> Any:
        config = read_posterior_config(path)
        if versions:
            save(versions.pop())
        return config

    save(0.05)
    versions = [0.2, 0.1]  # by another process, while the files are read
    monkeypatch.setattr(loading, "read_posterior_config", read_and_replace)
    _, found = load_posterior(folder, base)
    assert not versions
    (mean, *_), (width, *_) = found.mean().values(), found.scale().values()
    assert mean.flatten()[0] == torch.tensor(0.2)
    assert 0.1 <= width.max() <= 0.2 * 1.001
