"""A guide on a trained PEFT adapter starts at the adapter's own weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from blob_pyro.guides import (
    FullCovarianceGuide,
    LowRankGaussianGuide,
    LowRankPlusDiagonalGuide,
    MatrixNormalGuide,
    PointEstimateGuide,
)
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import SequenceClassifier

GUIDES = [
    FullCovarianceGuide,
    LowRankGaussianGuide,
    LowRankPlusDiagonalGuide,
    MatrixNormalGuide,
    PointEstimateGuide,
]


@pytest.mark.parametrize("guide_class", GUIDES)
def test_mean_and_B_are_the_files(
    guide_class: Any, peft_network: Any, token_batch: Any, tmp_path: Path
) -> None:
    trained, batch = peft_network("bert", "SEQ_CLS"), token_batch()
    base = copy.deepcopy(trained).unload()
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    trained.save_pretrained(tmp_path, save_embedding_layers=False)
    file = load_file(tmp_path / "adapter_model.safetensors")

    net = PeftModel.from_pretrained(base, str(tmp_path), is_trainable=True)
    model = SequenceClassifier(net, num_data=8)
    guide = guide_class(model)
    assert len(guide.sites) == 4
    for name, site in guide.sites.items():
        assert torch.equal(guide.mean()[name], file[name])
        assert torch.equal(site.lora_B, file[name.replace("lora_A", "lora_B")])
        assert site.lora_B.requires_grad
    # So its mean predicts what the trained adapter did.
    logits = posterior_predictive(model, guide, [batch], 0, progress=False)["logits"][0]
    del batch["labels"]
    torch.testing.assert_close(logits, trained.eval()(**batch).logits)
