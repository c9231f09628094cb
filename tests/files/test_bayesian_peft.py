from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from pyro import poutine
from safetensors.torch import load_file, save_file

from blob_pyro import import_bayesian_peft
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout

TOKENS = [7, 9, 11]
ANSWERS = partial(LabelTokenClassifier, label_token_ids=TOKENS, num_data=8)
ATTENTION = "base_model.model.model.layers.{}.self_attn.{}_proj"
LAYERS = [ATTENTION.format(i, kind) for i in (0, 1) for kind in "qv"]
SIZES = {"q": 16, "v": 8}


def write_as_the_paper(folder: Path, head: bool = True) -> dict[str, torch.Tensor]:
    """Write an adapter key by key, as the paper's code does (LoRA on the head as well)."""
    folder.mkdir()
    torch.manual_seed(5)
    tensors = {}
    sizes = {layer: SIZES[layer[-6]] for layer in LAYERS}
    for layer, width in (sizes | ({"base_model.model.lm_head": 60} if head else {})).items():
        tensors[f"{layer}.lora_A.weight"] = torch.randn(2, 16)
        tensors[f"{layer}.lora_B.weight"] = 0.3 * torch.randn(width, 2)
        tensors[f"{layer}.lora_A_rho"] = 0.3 + 0.3 * torch.rand(2, 16)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        target_modules=["q_proj", "v_proj", *(["lm_head"] if head else [])],
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    # Versions of PEFT differ in their settings.
    content = json.loads((folder / "adapter_config.json").read_text())
    content["a_setting_of_another_version"] = 1
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return tensors


@pytest.fixture
def base(peft_network: Any) -> Any:
    return peft_network("llama").unload()


def test_mean_and_scale_are_those_of_the_file(tmp_path: Path, base: Any) -> None:
    tensors = write_as_the_paper(tmp_path / "p")
    model, guide = import_bayesian_peft(tmp_path / "p", base, 0.3, likelihood=ANSWERS)
    assert len(guide.sites) == 5
    for name in guide.sites:
        rho = tensors[f"{name.removesuffix('.weight')}_rho"]
        assert torch.equal(guide.mean()[name], tensors[name])
        torch.testing.assert_close(guide.scale()[name], rho.square())
        torch.testing.assert_close(
            guide.sites[name].lora_B, tensors[name.replace("lora_A", "lora_B")]
        )
    assert isinstance(model, LabelTokenClassifier)
    assert (model.prior.scale, model.num_data, model.training) == (0.3, 8, False)


@pytest.mark.filterwarnings("ignore:.*a_setting_of_another_version")
def test_draws_predict_as_peft_with_the_noise_added(
    tmp_path: Path, base: Any, inputs: Any, plain_logits: Any
) -> None:
    tensors = write_as_the_paper(tmp_path / "p")
    other = copy.deepcopy(base)
    model, guide = import_bayesian_peft(tmp_path / "p", base, likelihood=ANSWERS)
    torch.manual_seed(2)
    draw = guide()
    expected = {}
    for name, tensor in tensors.items():
        if name.endswith("_rho"):
            continue
        expected[name] = draw[name] if "lora_A" in name else tensor
        if "lora_A" in name:
            noise = (draw[name] - tensor) / tensors[f"{name.removesuffix('.weight')}_rho"].square()
            assert noise.abs().max() < 5
    plain = tmp_path / "plain"
    plain.mkdir()
    save_file(
        {k: v.detach().clone() for k, v in expected.items()}, plain / "adapter_model.safetensors"
    )
    (plain / "adapter_config.json").write_text((tmp_path / "p" / "adapter_config.json").read_text())
    net = PeftModel.from_pretrained(other, str(plain)).eval()
    logits = poutine.condition(model, {name: draw[name] for name in guide.sites})(**inputs)
    torch.testing.assert_close(logits, plain_logits(net, inputs, TOKENS), atol=1e-4, rtol=1e-4)


def test_the_random_state_is_left_alone(tmp_path: Path, base: Any) -> None:
    write_as_the_paper(tmp_path / "blob")
    state = torch.get_rng_state()
    import_bayesian_peft(tmp_path / "blob", base, likelihood=ANSWERS)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_goes_on(tmp_path: Path, base: Any, inputs: Any) -> None:
    write_as_the_paper(tmp_path / "p", head=False)
    model, guide = import_bayesian_peft(tmp_path / "p", base, likelihood=ANSWERS)
    with flipout():
        traced = poutine.trace(guide).get_trace(**inputs)
        logits = poutine.replay(model, trace=traced)(**inputs)
    (logits.square().sum() + guide.kl()).backward()
    gradients = [p for p in (*guide.parameters(), *model.parameters()) if p.grad is not None]
    assert len(gradients) == 4 * 3


def test_a_negative_epsilon_is_softplus(tmp_path: Path, base: Any) -> None:
    tensors = write_as_the_paper(tmp_path / "p")
    _, guide = import_bayesian_peft(
        tmp_path / "p", base, likelihood=ANSWERS, parameterization="softplus"
    )
    for name, scale in guide.scale().items():
        rho = tensors[f"{name.removesuffix('.weight')}_rho"]
        torch.testing.assert_close(scale, rho.exp().log1p())


def edit_tensors(folder: Path, what: str) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    rho = f"{LAYERS[0]}.lora_A_rho"
    if what == "plain":
        tensors = {name: t for name, t in tensors.items() if not name.endswith("_rho")}
    elif what == "one rho less":
        tensors.pop(rho)
    elif what == "rho's shape":
        tensors[rho] = tensors[rho][:1].clone()
    elif what == "rank":
        tensors[f"{LAYERS[0]}.lora_A.weight"] = torch.zeros(3, 16)
    elif what == "a layer more":
        tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(
            2, 16
        )
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("plain", "has no tensor lora_A_rho, so it is a plain adapter"),
        (
            "one rho less",
            r"the means .lora_A. in it have different sites \('base_model",
        ),
        ("rho's shape", r"has shape \(1, 16\) but the means .lora_A. in it needs \(2, 16\)"),
        (
            "rank",
            r"lora_B.weight. has shape \(16, 2\) but a LlamaForCausalLM with that adapter needs",
        ),
        ("a layer more", r"have different sites \('base_model.model.model.layers.7"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    what: str, message: str, tmp_path: Path, base: Any
) -> None:
    write_as_the_paper(tmp_path / "p")
    edit_tensors(tmp_path / "p", what)
    with pytest.raises(ValueError, match=message) as error:
        import_bayesian_peft(tmp_path / "p", base, likelihood=ANSWERS)
    assert "adapter_model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"adapter_config.json is missing"),
        ("{", "adapter_config.json cannot be used"),
        ("[]", "adapter_config.json cannot be used .TypeError: no JSON object"),
        ('{"peft_type": "IA3"}', "peft_type=.IA3.: use .LORA."),
        (
            '{"peft_type": "LORA", "r": "x", "target_modules": ["q_proj"]}',
            "json cannot be used",
        ),
    ],
)
def test_bad_configurations_are_named(
    content: str | None, message: str, tmp_path: Path, base: Any
) -> None:
    write_as_the_paper(tmp_path / "p")
    path = tmp_path / "p" / "adapter_config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        import_bayesian_peft(tmp_path / "p", base, likelihood=ANSWERS)


def test_a_network_with_an_adapter_is_refused(tmp_path: Path, peft_network: Any) -> None:
    write_as_the_paper(tmp_path / "p")
    with pytest.raises(ValueError, match="base_model is a PeftModel already; give the network wi"):
        import_bayesian_peft(tmp_path / "p", peft_network("llama"), likelihood=ANSWERS)
