from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from datasets import Dataset

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM, SequenceClassifier
from blob_pyro.poutine import apply_weight
from blob_pyro.training import StepRecord, TrainingConfig, best_step, fit


def texts(tokens: range, flip: int) -> Dataset:
    """Texts of one token, whose class is its parity; every so many have the wrong class."""
    labels = [(token % 2) ^ (index % flip == 0) for index, token in enumerate(tokens)]
    return Dataset.from_dict(
        {"text": ["a" * (1 + token % 3) for token in tokens], "token": [*tokens], "label": labels}
    )


# Half of the training labels are noise, so that learning them by heart does harm.
TRAIN, HELD_OUT = texts(range(5, 17), 2), texts(range(17, 30), 100)


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([example["token"] for example in examples])
    return {
        "input_ids": tokens[:, None].expand(-1, 4).contiguous(),
        "labels": torch.tensor([example["label"] for example in examples]),
    }


def program(peft_network: Any, guide_class: Any = PointEstimateGuide, dropout: float = 0.0) -> Any:
    net = peft_network("bert", "SEQ_CLS", lora_dropout=dropout)
    model = SequenceClassifier(net, num_data=len(TRAIN))
    return model, guide_class(model), ReweightedTrace_ELBO(3, kl_scale=1e-3, per_datum=True)


def nll_by_hand(model: Any, guide: Any) -> float:
    """Mean NLL of the held-out data with the mean in the network, by plain torch."""
    model, mean = copy.deepcopy(model).eval(), guide.mean()
    for name, site in model.sites.items():
        shape = torch.Size([len(HELD_OUT), 4])
        site.projection.install(mean[name], apply_weight(mean[name], shape))
    batch = collate([*HELD_OUT])
    with torch.no_grad():
        logits = model.network(input_ids=batch["input_ids"]).logits
        return float(torch.nn.functional.cross_entropy(logits.double(), batch["labels"]))


@pytest.mark.parametrize("guide_class", [PointEstimateGuide, LowRankGaussianGuide])
def test_the_state_that_is_kept_is_the_one_with_the_lowest_validation_nll(
    peft_network: Any, guide_class: Any
) -> None:
    model, guide, elbo = program(peft_network, guide_class, dropout=0.1)
    seen: dict[int, tuple[float, dict[str, torch.Tensor]]] = {}

    def watch(record: StepRecord) -> None:
        state = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
        seen[record.step] = nll_by_hand(model, guide), state

    config = TrainingConfig(
        num_steps=35, batch_size=4, learning_rate=5e-2, flipout=False, validate_every=4
    )
    records = fit(model, guide, elbo, TRAIN, collate, config, validation=HELD_OUT, on_step=watch)
    scored = {r.step: r.validation_nll for r in records if r.validation_nll is not None}
    assert [*scored] == [3, 7, 11, 15, 19, 23, 27, 31, 34]
    for step, nll in scored.items():
        assert nll == pytest.approx(seen[step][0], rel=1e-5)
    best = min(scored, key=lambda step: seen[step][0])
    assert best_step(records) == best
    # It has overfitted since, or there would be nothing to put back.
    assert best < 31
    assert scored[34] > scored[best] + 0.05
    assert nll_by_hand(model, guide) == pytest.approx(scored[best], rel=1e-5)
    for name, tensor in guide.state_dict().items():
        assert torch.equal(tensor, seen[best][1][name])


def test_looking_at_validation_data_changes_nothing_else(peft_network: Any) -> None:
    def run(**options: Any) -> list[Any]:
        pyro.set_rng_seed(3)
        model, guide, elbo = program(peft_network, LowRankGaussianGuide, dropout=0.2)
        config = TrainingConfig(num_steps=7, batch_size=4, validate_every=2 if options else None)
        return [r.loss for r in fit(model, guide, elbo, TRAIN, collate, config, **options)]

    assert run(validation=HELD_OUT) == run()


@pytest.mark.parametrize(
    ("every", "validation", "message"),
    [
        (2, None, "validate_every=2, but the validation data are missing; give both"),
        (None, HELD_OUT, "validate_every=None, but the validation data are given; give both"),
        (2, HELD_OUT.select([]), "the validation data are empty; give at least one"),
    ],
)
def test_validation_needs_data_and_steps(
    every: int | None, validation: Any, message: str, peft_network: Any
) -> None:
    config = TrainingConfig(num_steps=2, batch_size=4, validate_every=every)
    with pytest.raises(ValueError, match=message):
        fit(*program(peft_network), TRAIN, collate, config, validation=validation)


def test_without_validation_there_is_no_best_step() -> None:
    assert best_step([StepRecord(0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]) is None


def test_a_model_that_writes_text_is_refused_before_it_is_trained(peft_network: Any) -> None:
    model = CausalLM(peft_network("llama"), len(TRAIN))
    guide, config = (
        PointEstimateGuide(model),
        TrainingConfig(num_steps=2, batch_size=4, validate_every=1),
    )
    elbo = ReweightedTrace_ELBO(3, per_datum=True)
    with pytest.raises(ValueError, match="a CausalLM predicts none; leave validation"):
        fit(model, guide, elbo, TRAIN, collate, config, validation=HELD_OUT)
    assert elbo.step == 0
