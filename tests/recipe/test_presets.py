from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro.infer import kl_weight
from blob_pyro.lora import NormalPrior
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import PAPER, RECIPES, run_recipe
from blob_pyro.tasks import TextClassificationTask

DATA = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
TASK = TextClassificationTask("t", DatasetDict(train=DATA), ("login", "printing"))


def test_the_papers_recipe_is_the_published_one(base_folder: str) -> None:
    assert RECIPES["paper"] is PAPER
    training = PAPER.training
    assert (training.num_steps, training.batch_size, training.warmup_fraction) == (5000, 4, 0.06)
    assert (training.learning_rate, training.kl_learning_rate) == (1e-4, 0.01)
    assert training.num_warmup_steps == 300
    short = PAPER.changed(num_steps=2)
    _, guide, records = run_recipe(
        short, load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
    )
    assert any("lm_head" in name for name in guide.sites)
    for site in guide.sites.values():
        assert site.projection.out_features == 8
        assert site.scaling == 2
        assert site.projection.prior == NormalPrior(0.2)
    roots = [scale.sqrt() for scale in guide.scale().values()]
    assert 0.03 < min(root.min() for root in roots) < max(root.max() for root in roots) < 0.051
    # A batch's mean loss plus lambda_i KL, over a cycle of 100 * 4 ** (pi / 8) / 4 = 43 batches.
    for record in records:
        assert record.kl_weight == pytest.approx(4 * kl_weight(record.step, 43, "blob"))
        assert record.loss == pytest.approx(
            record.nll / 4 + kl_weight(record.step, 43, "blob") * record.kl, rel=1e-5
        )
