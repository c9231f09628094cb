from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from torch.nn.functional import cross_entropy

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import PosteriorFunctions, posterior_draws, posterior_predictive
from blob_pyro.models import SequenceClassifier

Batch = dict[str, torch.Tensor]
# float32 after other orders of summation; nothing here is random.
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def loader(batch: Batch, size: int) -> list[Batch]:
    starts = range(0, len(batch["input_ids"]), size)
    return [{name: value[i : i + size] for name, value in batch.items()} for i in starts]


def predict(model: Any, guide: Any, batches: Any, num_samples: int = 3, **options: Any) -> Batch:
    settings = {"seed": 7, "progress": False, **options}
    return posterior_predictive(model, guide, batches, num_samples, **settings)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_predictive_gives_the_same_numbers_from_the_same_draws(
    name: str, parallel: bool, program: Any, token_batch: Any
) -> None:
    model, guide = program(name)
    batches = loader(token_batch(5), 2)
    got = predict(model, guide, batches, return_sites=tuple(model.sites))
    draws = {site: got[site] for site in model.sites}
    predictive = Predictive(model, draws, return_sites=("logits",), parallel=parallel)
    with torch.no_grad():
        wanted = [predictive(**batch)["logits"].reshape(3, -1, 3) for batch in batches]
    assert got["logits"].shape == (3, 5, 3)
    assert torch.allclose(got["logits"], torch.cat(wanted, dim=1), **CLOSE)
    assert not torch.allclose(got["logits"][0], got["logits"][1], atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_draw_is_a_function_however_the_data_are_batched(
    name: str, program: Any, token_batch: Any
) -> None:
    model, guide = program(name)
    batch = token_batch(6)
    for tensor in batch.values():
        tensor[5] = tensor[0]
    logits = [predict(model, guide, loader(batch, size))["logits"] for size in (1, 4, 6)]
    for other in logits[1:]:
        assert torch.allclose(logits[0], other, **CLOSE)
    # The same text in two batches: the same answer under each draw.
    assert torch.allclose(logits[0][:, 0], logits[0][:, 5], **CLOSE)


def test_the_seed_decides_and_leaves_the_global_state(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batches = [token_batch()]

    def logits(seed: int | None) -> torch.Tensor:
        return predict(model, guide, iter(batches), seed=seed)["logits"]

    state = torch.get_rng_state()
    first = logits(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(1), first)
    assert not torch.equal(logits(2), first)
    assert torch.equal(torch.get_rng_state(), state)
    unseeded = logits(None)
    assert not torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(logits(None), unseeded)
    torch.set_rng_state(state)
    assert torch.equal(logits(None), unseeded)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_no_draws_are_the_mean_in_unmodified_peft(
    name: str, program: Any, token_batch: Any, peft_logits: Any
) -> None:
    model, guide = program(name)
    with torch.no_grad():
        for parameter in guide.M.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = token_batch(5)
    got = predict(model, guide, loader(batch, 3), num_samples=0)["logits"]
    assert got.shape == (1, 5, 3)
    assert torch.allclose(got[0], peft_logits(model, guide.mean(), batch), **CLOSE)


def test_the_log_likelihood_is_minus_the_cross_entropy(program: Any, token_batch: Any) -> None:
    model, guide = program("llama")
    batch = token_batch(5)
    got = predict(model, guide, loader(batch, 2))
    assert torch.equal(got["labels"], batch["labels"])
    wanted = [-cross_entropy(logits, batch["labels"], reduction="none") for logits in got["logits"]]
    assert torch.allclose(got["log_likelihood"], torch.stack(wanted), rtol=1e-6, atol=1e-6)


def test_without_labels_only_the_logits_are_given(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = token_batch(5)
    labelled = predict(model, guide, loader(batch, 2))
    del batch["labels"]
    got = predict(model, guide, loader(batch, 2))
    assert set(got) == {"logits"}
    assert torch.equal(got["logits"], labelled["logits"])


def test_the_progress_bar_leaves_standard_output_alone(
    program: Any, token_batch: Any, capsys: Any
) -> None:
    predict(*program("bert"), [token_batch()], progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fails", [False, True])
def test_dropout_is_off_and_the_modes_come_back(
    fails: bool, peft_network: Any, token_batch: Any
) -> None:
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS", lora_dropout=0.5), num_data=8)
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    batch = token_batch()
    quiet = predict(model.eval(), guide, [batch])["logits"]
    model.train()
    model.network.get_base_model().bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    state = torch.get_rng_state()
    if fails:

        def batches() -> Iterator[Batch]:
            yield batch
            yield {**batch, "labels": torch.full((4,), 3)}

        with pytest.raises(ValueError, match=r"labels\[0\] = 3 but the model has 3 classes"):
            predict(model, guide, batches())
    else:
        assert torch.equal(predict(model, guide, [batch])["logits"], quiet)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("guide_class", [AutoNormal, AutoDelta, AutoLowRankMultivariateNormal])
def test_pyros_autoguides_predict_too(
    guide_class: Any, program: Any, token_batch: Any, peft_logits: Any
) -> None:
    model, _ = program("bert")
    batch = token_batch(5)
    guide = guide_class(model)
    guide(**batch)
    got = predict(model, guide, loader(batch, 2), return_sites=tuple(model.sites))
    for k in range(3):
        draw = {site: got[site][k] for site in model.sites}
        assert torch.allclose(got["logits"][k], peft_logits(model, draw, batch), **CLOSE)
    equal = torch.allclose(got["logits"][0], got["logits"][1], **CLOSE)
    assert equal == (guide_class is AutoDelta)
    middle = predict(model, guide, loader(batch, 2), num_samples=0)["logits"]
    median = {site: value.detach() for site, value in guide.median().items()}
    assert torch.allclose(middle[0], peft_logits(model, median, batch), **CLOSE)


def test_draws_hold_the_latent_sites_alone(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    auto = AutoNormal(model)
    for each in (guide, auto):
        draws = posterior_draws(each, 2, token_batch())
        assert [set(draw) for draw in draws] == [set(model.sites)] * 2


def partly_labelled(batch: Batch) -> list[Batch]:
    first, second = loader(batch, 2)
    return [first, {name: value for name, value in second.items() if name != "labels"}]


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        (partly_labelled, {}, "only some batches have labels; give labels for all or"),
        (lambda batch: [batch], {"num_samples": -1}, "num_samples=-1: give the number of draws"),
        (lambda batch: [batch], {"parallel": 0}, "parallel=0: give 1 draw a forward pass or more"),
        (
            lambda batch: [batch],
            {"return_sites": ("layer",)},
            "return_sites: the guide has no site 'layer' but .*lora_A",
        ),
        (
            lambda batch: [{**batch, "labels": batch["labels"] - 100}],
            {},
            r"labels\[0\] = -\d+ but the model has 3 classes",
        ),
    ],
)
def test_impossible_requests_are_refused(
    batches: Any, options: Any, message: str, program: Any, token_batch: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(*program("bert"), batches(token_batch()), **options)


def test_a_guide_without_a_mean_has_to_draw(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")

    def function(**batch: torch.Tensor) -> Any:
        return guide(**batch)

    assert predict(model, function, [token_batch()])["logits"].shape == (3, 4, 3)
    with pytest.raises(ValueError, match=r"function has neither mean\(\) nor median\(\); ask for"):
        predict(model, function, [token_batch()], num_samples=0)


class Shuffled(list[Batch]):
    """Batches of a loader that reads examples in another order than the data set's."""

    def __init__(self, batches: list[Batch], order: list[int]) -> None:
        super().__init__(batches)
        self.sampler = SimpleNamespace(order=order)


def test_results_are_in_the_order_of_the_data_set(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = token_batch(5)
    order = [3, 0, 4, 2, 1]
    moved = {name: tensor[order] for name, tensor in batch.items()}
    found = predict(model, guide, Shuffled(loader(moved, 2), order))
    expected = predict(model, guide, loader(batch, 5))
    assert torch.equal(found["labels"], batch["labels"])
    for name in ("logits", "log_likelihood"):
        torch.testing.assert_close(found[name], expected[name], **CLOSE)


def test_later_batches_meet_the_same_functions(program: Any, token_batch: Any) -> None:
    model, guide = program("llama")
    batches = [token_batch(3, seed=seed) for seed in range(4)]
    wanted = posterior_predictive(model, guide, batches, 5, seed=3, progress=False)["logits"]
    functions = PosteriorFunctions(model, guide, batches[0], 5, seed=3)
    torch.rand(7)
    got = torch.cat([functions(batch) for batch in batches], dim=1)
    assert torch.equal(got, wanted)
    assert torch.equal(functions(batches[2]), wanted[:, 6:9])


def test_calls_leave_nothing_behind(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    model.train()
    batch = token_batch(2)
    before = torch.get_rng_state()
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    logits = functions(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not logits.requires_grad


def test_without_a_seed_the_global_state_decides(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = token_batch(2)
    torch.manual_seed(5)
    first, second = (PosteriorFunctions(model, guide, batch, 2) for _ in range(2))
    assert not torch.equal(first(batch), second(batch))
    torch.manual_seed(5)
    assert torch.equal(PosteriorFunctions(model, guide, batch, 2)(batch), first(batch))
