from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from datasets import Dataset

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import PosteriorFunctions, ReweightedTrace_ELBO, kl_weight
from blob_pyro.models import SequenceClassifier
from blob_pyro.training import TrainingConfig, fit
from blob_pyro.training.steps import DecoupledSteps, Steps

DATA = Dataset.from_dict({"text": ["a" * n for n in range(1, 13)], "token": [*range(5, 17)]})


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Four equal tokens; the class is the token's parity, so that there is something to learn."""
    tokens = torch.tensor([example["token"] for example in examples])
    return {"input_ids": tokens[:, None].expand(-1, 4).contiguous(), "labels": tokens % 2}


def program(peft_network: Any, guide_class: Any = LowRankGaussianGuide) -> Any:
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), num_data=len(DATA))
    return model, guide_class(model), ReweightedTrace_ELBO(3, kl_scale=1e-3, per_datum=True)


@pytest.mark.parametrize("kl_learning_rate", [None, 1e-3])
def test_records_hold_what_was_optimised(peft_network: Any, kl_learning_rate: float | None) -> None:
    seen: list[Any] = []
    model, guide, elbo = program(peft_network)
    config = TrainingConfig(
        num_steps=5, batch_size=4, learning_rate=1e-2, kl_learning_rate=kl_learning_rate
    )
    records = fit(model, guide, elbo, DATA, collate, config, on_step=seen.append)
    assert records == seen
    assert [record.step for record in records] == [0, 1, 2, 3, 4]
    assert elbo.step == 5
    for record in records:
        weight = 3 * kl_weight(record.step, 3, "blob") * 1e-3
        assert record.kl_weight == pytest.approx(weight)
        assert record.loss == pytest.approx(
            (record.nll + record.kl_weight * record.kl) / len(DATA), rel=1e-5
        )
        assert record.grad_norm > 0
    assert records[0].lr <= 1e-2
    assert records[-1].lr < records[1].lr


@pytest.mark.parametrize("kl_learning_rate", [None, 1e-3])
@pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])
def test_training_learns_and_repeats_bit_for_bit(
    peft_network: Any, guide_class: Any, kl_learning_rate: float | None
) -> None:
    def run() -> tuple[list[Any], dict[str, torch.Tensor]]:
        pyro.set_rng_seed(3)
        model, guide, elbo = program(peft_network, guide_class)
        config = TrainingConfig(
            num_steps=80, batch_size=4, learning_rate=3e-2, kl_learning_rate=kl_learning_rate
        )
        records = fit(model, guide, elbo, DATA, collate, config)
        return records, guide.state_dict()

    records, state = run()
    again, again_state = run()
    assert records == again
    assert all(torch.equal(state[name], again_state[name]) for name in state)
    first = sum(record.nll for record in records[:6])
    assert sum(record.nll for record in records[-6:]) < 0.7 * first


def test_with_a_step_of_its_own_the_kl_is_descended_by_plain_sgd(peft_network: Any) -> None:
    # One step, AdamW's next to nothing: G moves by rate times weight times gradient.
    model, guide, elbo = program(peft_network)
    before = copy.deepcopy(guide)
    config = TrainingConfig(
        num_steps=1,
        batch_size=12,
        learning_rate=1e-6,
        warmup_fraction=0,
        kl_learning_rate=0.5,
        scale_updates="both",
    )
    fit(model, guide, elbo, DATA, collate, config)
    weight = 3 * kl_weight(0, 3, "blob") * 1e-3 / len(DATA)
    for name in guide.sites:
        root = before.G[name].detach()
        # d KL / dG of log(prior / G^2) + G^4 / (2 prior^2).
        step = 0.5 * weight * (-2 / root + 2 * root**3 / 0.2**2)
        assert (guide.G[name].detach() - (root - step)).abs().max() < 2e-6
        assert step.abs().min() > 5e-4


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro warns, this library stops
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(peft_network: Any) -> None:
    model, guide, elbo = program(peft_network)
    good: dict[str, torch.Tensor] = {}

    def poison(record: Any) -> None:
        if record.step == 1:
            with torch.no_grad():
                model.network.get_base_model().bert.pooler.dense.bias.fill_(float("nan"))
            good.update({name: value.clone() for name, value in guide.state_dict().items()})

    with pytest.raises(FloatingPointError, match=r"loss is nan at step 2 \(nll=nan"):
        fit(
            model,
            guide,
            elbo,
            DATA,
            collate,
            TrainingConfig(num_steps=5, batch_size=4),
            on_step=poison,
        )
    for name, value in guide.state_dict().items():
        assert torch.equal(value, good[name])


def test_a_gradient_that_is_no_number_stops_before_the_step(peft_network: Any) -> None:
    model, guide, elbo = program(peft_network)
    next(guide.M.parameters()).register_hook(lambda grad: grad * float("nan"))
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    with pytest.raises(FloatingPointError, match="gradient's norm is nan at step 0"):
        fit(model, guide, elbo, DATA, collate, TrainingConfig(num_steps=2, batch_size=4))
    for name, value in guide.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kl_learning_rate", [None, 1e-2])
def test_accumulated_micro_batches_are_one_batch(
    peft_network: Any, kl_learning_rate: float | None
) -> None:
    # Eleven examples, so that the last micro-batch of an epoch is smaller; a point has no noise.
    data, start = DATA.select(range(11)), peft_network("bert", "SEQ_CLS")

    def run(batch_size: int, accumulation_steps: int) -> tuple[dict[str, torch.Tensor], list[Any]]:
        model = SequenceClassifier(copy.deepcopy(start), num_data=len(data))
        guide, elbo = PointEstimateGuide(model), ReweightedTrace_ELBO(1, kl_scale=1e-3)
        config = TrainingConfig(
            num_steps=4,
            batch_size=batch_size,
            learning_rate=1e-2,
            kl_learning_rate=kl_learning_rate,
            accumulation_steps=accumulation_steps,
            max_grad_norm=0.5,
            flipout=False,
        )
        return guide.state_dict(), fit(model, guide, elbo, data, collate, config)

    whole, parts = run(11, 1), run(4, 3)
    for name, tensor in whole[0].items():
        assert (tensor - parts[0][name]).abs().max() < 1e-5
    for left, right in zip(whole[1], parts[1], strict=True):
        for name in ("loss", "nll", "kl", "grad_norm"):
            assert getattr(left, name) == pytest.approx(getattr(right, name), rel=1e-4)


def test_gradient_checkpointing_changes_nothing(peft_network: Any) -> None:
    def run(checkpointing: bool) -> tuple[list[float], bool]:
        pyro.set_rng_seed(3)
        model, guide, elbo = program(peft_network)
        config = TrainingConfig(num_steps=3, batch_size=4, gradient_checkpointing=checkpointing)
        records = fit(model, guide, elbo, DATA, collate, config)
        return [r.loss for r in records], model.network.get_base_model().is_gradient_checkpointing

    assert run(True)[0] == run(False)[0]
    assert run(True)[1]


def test_bfloat16_is_close_to_float32(peft_network: Any) -> None:
    def run(precision: str) -> list[float]:
        AcceleratorState._reset_state(True)
        pyro.set_rng_seed(3)
        model, guide, elbo = program(peft_network)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        records = fit(
            model,
            guide,
            elbo,
            DATA,
            collate,
            TrainingConfig(num_steps=3, batch_size=4),
            accelerator=accelerator,
        )
        AcceleratorState._reset_state(True)
        return [record.nll for record in records]

    full, half = run("no"), run("bf16")
    assert full != half
    # bfloat16 keeps 8 bits: errors of a few parts in a thousand.
    assert half == pytest.approx(full, rel=0.03)


def test_a_kl_step_of_its_own_refuses_scaled_gradients(peft_network: Any) -> None:
    model, guide, elbo = program(peft_network)
    scaled = SimpleNamespace(scaler=object())
    with pytest.raises(ValueError, match="cannot share the scaled gradients of fp16; use bf16"):
        DecoupledSteps(model, guide, elbo, TrainingConfig(kl_learning_rate=1e-2), scaled)


def test_trackers_get_what_is_recorded(peft_network: Any) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    class Tracker(GeneralTracker):
        name, requires_logging_directory, tracker = "seen", False, None

        def log(self, values: dict[str, float], step: int | None, **_: Any) -> None:
            seen.append((step, values))

    accelerator = Accelerator(log_with=Tracker())
    accelerator.init_trackers("run")
    model, guide, elbo = program(peft_network)
    records = fit(
        model,
        guide,
        elbo,
        DATA,
        collate,
        TrainingConfig(num_steps=2, batch_size=4),
        accelerator=accelerator,
    )
    assert [step for step, _ in seen] == [0, 1]
    assert seen[1][1]["loss"] == records[1].loss
    assert "validation_nll" not in seen[1][1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
def test_a_compiled_network_is_one_graph_and_learns_the_same(
    peft_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the code generator, which takes long and rounds otherwise.
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled(net, backend="eager"))

    def run(compile_network: bool) -> list[float]:
        pyro.set_rng_seed(3)
        config = TrainingConfig(num_steps=4, batch_size=4, compile=compile_network)
        return [r.loss for r in fit(*program(peft_network), DATA, collate, config)]

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert run(True) == run(False)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
def test_a_compiled_network_called_by_itself_predicts_with_the_mean(
    peft_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled(net, backend="eager"))
    model, guide, elbo = program(peft_network)
    fit(model, guide, elbo, DATA, collate, TrainingConfig(num_steps=1, compile=True))
    batch = {"input_ids": collate([*DATA])["input_ids"]}
    with torch.no_grad():
        found = model.network.eval()(**batch).logits
        expected = model.eval().logits_under([guide.mean()], **batch)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_no_thread_predicts_in_the_middle_of_a_step(peft_network: Any) -> None:
    model, guide, elbo = program(peft_network)
    batch = {"input_ids": collate([*DATA])["input_ids"]}
    functions = PosteriorFunctions(model, guide, batch, 1, seed=0)
    with ThreadPoolExecutor(1) as pool:

        class BesidePrediction(Steps):
            def _descend(self, terms: Any) -> Any:
                answer = pool.submit(functions, batch)
                assert wait([answer], timeout=0.2).not_done
                assert guide.model.training
                return super()._descend(terms)

        fit(model, guide, elbo, DATA, collate, TrainingConfig(num_steps=1), steps=BesidePrediction)


def test_the_default_length_of_a_run_follows_from_the_data(
    peft_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blob_pyro.training.config._LEAST_STEPS", 1)
    monkeypatch.setattr("blob_pyro.training.config._EXAMPLES", 6)
    # 6 sqrt(12) examples, four a step.
    assert len(fit(*program(peft_network), DATA, collate, TrainingConfig(batch_size=4))) == 6


@pytest.mark.parametrize("kl_learning_rate", [None, 1e-3])
def test_the_head_has_a_rate_of_its_own(peft_network: Any, kl_learning_rate: float | None) -> None:
    """AdamW's first step moves each entry by its rate, whatever the gradient."""

    def moved(head_learning_rate: float | None) -> dict[str, float]:
        torch.manual_seed(0)
        model, guide, elbo = program(peft_network)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = TrainingConfig(
            num_steps=1,
            batch_size=12,
            learning_rate=1e-3,
            head_learning_rate=head_learning_rate,
            kl_learning_rate=kl_learning_rate,
            warmup_fraction=0,
        )
        fit(model, guide, elbo, DATA, collate, config)
        after = dict(model.named_parameters())
        return {name: float((after[name].detach() - p).abs().max()) for name, p in before.items()}

    for head_rate, expected in ((1e-2, 1e-2), (None, 1e-3)):
        change = moved(head_rate)
        head = max(each for name, each in change.items() if "classifier" in name)
        up = max(each for name, each in change.items() if "lora_B" in name)
        assert head == pytest.approx(expected, rel=0.01)
        assert up == pytest.approx(1e-3, rel=0.01)
