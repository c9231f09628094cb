"""A student against the densities that it is to descend, and a teacher whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from pyro import poutine
from scipy.stats import spearmanr

from blob_pyro.diagnostics import dirichlet_mutual_information, mutual_information
from blob_pyro.guides import DirichletGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import (
    CausalLM,
    Classifier,
    LabelTokenClassifier,
    OptionLikelihood,
    SequenceClassifier,
)
from blob_pyro.posthoc import DirichletStudent, distill, distill_text, distillation
from blob_pyro.tasks.collators import padded
from blob_pyro.testing import tiny_network
from blob_pyro.training import TrainingConfig, sharded_predictive

IDS = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16], [17, 18, 19], [20, 21, 22]])
DATA = Dataset.from_dict({"input_ids": IDS.tolist()})
FLOOR = 1e-3


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row["input_ids"] for row in rows])}


def bert() -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(tiny_network("bert", "SEQ_CLS"), num_data=6)


def draws(rows: int, classes: int = 3, count: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, count, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def loss_of(model: Classifier, guide: DirichletGuide, batch: dict[str, torch.Tensor]) -> Any:
    student = DirichletStudent(model, guide.log_precision)
    elbo = ReweightedTrace_ELBO(1, "uniform", 0.0, max_plate_nesting=2, per_datum=True)
    return elbo.differentiable_loss(student, guide, **batch)


def expected_loss(logits: torch.Tensor, teacher: torch.Tensor, c: float) -> torch.Tensor:
    """Sum the three terms text by text, by torch's own densities."""
    losses = []
    for z, probabilities in zip(logits, teacher, strict=True):
        mixed = (1 - FLOOR) * probabilities + FLOOR / len(z)
        mean = (1 - FLOOR) * z.softmax(-1).detach() + FLOOR / len(z)
        precision = (z + c).exp().sum()
        spread = torch.distributions.Dirichlet(precision * mean).log_prob(mixed).mean()
        average = probabilities.mean(0)
        label = (average * z.log_softmax(-1)).sum() - (average + 1).lgamma().sum()
        prior = torch.distributions.Exponential(1e-3).log_prob(precision)
        losses.append(-(label + 0.1 * (spread + prior)))
    return torch.stack(losses).mean()


def test_loss_and_gradient_are_those_of_the_densities() -> None:
    model = bert().double().eval()
    guide = DirichletGuide(model, log_precision=0.7).double()
    teacher = draws(len(IDS))
    loss = loss_of(model, guide, {"input_ids": IDS, "teacher": teacher})
    logits = model.logits_under([guide.mean()], input_ids=IDS)[0]
    bias = _head_bias(model)
    free = logits.detach().requires_grad_()
    expected = expected_loss(free, teacher, 0.7)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(bias.grad, free.grad.sum(0), rtol=1e-5, atol=1e-6)


def _head_bias(model: Classifier) -> Any:
    return next(
        value
        for name, value in model.network.named_parameters()
        if value.requires_grad and name.endswith("bias")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_teachers_that_are_wholly_sure_give_finite_gradients(dtype: torch.dtype) -> None:
    model = bert().to(dtype)
    guide = DirichletGuide(model, log_precision=3.0)
    sure = torch.eye(3)[torch.tensor([[0, 0], [0, 1], [2, 2], [1, 1], [0, 2], [1, 0]])]
    # The student's own probabilities underflow too.
    with torch.no_grad():
        _head_bias(model).copy_(torch.tensor([60.0, -60.0, 0.0]))
    loss = loss_of(model, guide, {"input_ids": IDS, "teacher": sure})
    loss.backward()
    gradients = [p.grad for p in (*model.parameters(), *guide.parameters()) if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_student_reaches_the_average_and_the_disagreement() -> None:
    model = bert()
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    # A temperature of the teacher's is in what it teaches.
    model.set_temperature(1.5)
    drawn = sharded_predictive(model, guide, DATA, collate, 20, 0)["logits"]
    config = TrainingConfig(num_steps=400, batch_size=6, learning_rate=0.02)
    student, point = distill(model, guide, DATA, collate, config, 20, progress=False)
    logits = sharded_predictive(student, point, DATA, collate, 0)["logits"]
    assert student.temperature == 1
    found, average = logits[0].softmax(-1), drawn.softmax(-1).mean(0)
    torch.testing.assert_close(found, average, atol=0.02, rtol=0)
    information = dirichlet_mutual_information(logits[0] + point.log_precision)
    assert spearmanr(information, mutual_information(drawn)).statistic > 0.9


def test_label_tokens_and_options_of_any_number_are_taught() -> None:
    torch.manual_seed(0)
    net = tiny_network("llama", "CAUSAL_LM")
    words = LabelTokenClassifier(net, [7, 9, 11], num_data=6)
    config = TrainingConfig(num_steps=100, batch_size=6, learning_rate=0.02)
    guide = LowRankGaussianGuide(words, init_scale=0.25)
    drawn = sharded_predictive(words, guide, DATA, collate, 8, 0)["logits"]
    student = distill(words, guide, DATA, collate, config, 8, progress=False)
    logits = sharded_predictive(*student, DATA, collate, 0)["logits"][0]
    torch.testing.assert_close(logits.softmax(-1), drawn.softmax(-1).mean(0), atol=0.05, rtol=0)
    options = OptionLikelihood(tiny_network("llama", "CAUSAL_LM"), num_options=3, num_data=6)
    guide = LowRankGaussianGuide(options, init_scale=0.25)

    def with_options(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        owners = [[1, 2, 3] if ids[i, 0] % 2 else [1, 2, 2] for i in range(len(ids))]
        return {
            "input_ids": torch.cat([ids, ids.flip(1)], dim=1),
            "option_ids": torch.tensor(owners),
        }

    drawn = sharded_predictive(options, guide, DATA, with_options, 8, 0)["logits"]
    student = distill(options, guide, DATA, with_options, config, 8, progress=False)
    logits = sharded_predictive(*student, DATA, with_options, 0)["logits"][0]
    assert torch.equal(logits.isneginf(), drawn[0].isneginf())
    assert logits.isneginf().any()
    torch.testing.assert_close(logits.softmax(-1), drawn.softmax(-1).mean(0), atol=0.05, rtol=0)
    assert (dirichlet_mutual_information(logits + student[1].log_precision) > 0).all()


TEXTS = Dataset.from_list(
    [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]},
        {"input_ids": [10, 11, 12], "labels": [10, -100, 12]},
    ]
)


def collate_texts(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad on the left, where a text's first label stands at a place that is never learned."""
    input_ids, mask = padded([row["input_ids"] for row in rows], 1, on_left=True)
    labels, _ = padded([row["labels"] for row in rows], -100, on_left=True)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def average_next_tokens(model: CausalLM, draws: list[Any]) -> torch.Tensor:
    batch = collate_texts([*TEXTS])
    with torch.no_grad():
        logits = [poutine.condition(model.eval(), draw)(**batch) for draw in draws]
    return torch.stack(logits).softmax(-1).mean(0)


def test_a_student_of_texts_learns_the_average_of_the_draws(monkeypatch: Any) -> None:
    torch.manual_seed(0)
    model = CausalLM(tiny_network("llama", "CAUSAL_LM"), num_data=2)
    guide = LowRankGaussianGuide(model, init_scale=1.0)
    count, taught = 400, []
    torch.manual_seed(3)
    drawn = guide.draws(count)
    wanted, mean = average_next_tokens(model, drawn), average_next_tokens(model, [guide.mean()])
    monkeypatch.setattr(guide, "draws", lambda _: drawn)
    fitted = distillation.fit
    monkeypatch.setattr(distillation, "fit", lambda *a, **k: (taught.extend(a[3]), fitted(*a, **k)))
    config = TrainingConfig(num_steps=150, batch_size=64, learning_rate=0.02)
    student, point = distill_text(model, guide, TEXTS, collate_texts, config, count)
    # What the draws named, 400 tokens a place; the texts themselves are as they were.
    assert {tuple(row["input_ids"]) for row in taught} == {(5, 6, 7, 8, 9), (10, 11, 12)}
    places = [(0, 2), (0, 3), (0, 4), (1, 2)]
    lengths = (5, 3)
    for row, (text, place) in zip(wanted, places, strict=True):
        named = [each["labels"][place] for each in taught if len(each["labels"]) == lengths[text]]
        frequency = torch.tensor(named).bincount(minlength=len(row)) / count
        error = (row * (1 - row) / count).sqrt()
        # 240 frequencies: beyond 5 standard errors (and a token) in 1 seed of 5,000.
        assert ((frequency - row).abs() < 5 * error + 1 / count).all()
    found = average_next_tokens(student, [point.mean()])
    divergence = lambda p: (wanted * (wanted / p).log()).sum(-1).mean()  # noqa: E731
    assert divergence(found) < 0.7 * divergence(mean)


@pytest.mark.parametrize("make", [PointEstimateGuide, DirichletGuide])
def test_a_teacher_without_draws_is_refused(make: Callable[..., Any]) -> None:
    model = bert()
    guide = make(model)
    with pytest.raises(ValueError, match=f"a {make.__name__} .* has no draws"):
        distill(model, guide, DATA, collate)
    with pytest.raises(ValueError, match="num_samples=1: disagreement"):
        distill(model, LowRankGaussianGuide(model), DATA, collate, None, 1)


def test_the_program_is_pyro_s() -> None:
    model = bert()
    guide = DirichletGuide(model)
    batch = {"input_ids": IDS, "teacher": draws(len(IDS))}
    trace = poutine.trace(DirichletStudent(model)).get_trace(**batch)
    observed = [name for name, site in trace.nodes.items() if site.get("is_observed")]
    assert {"labels", "probabilities", "precision"} <= set(observed)
    assert trace.nodes["probabilities"]["fn"].batch_shape[-1] == len(IDS)
    assert isinstance(model.network, PeftModel)
    assert guide.config() == {"log_precision": 0.0}
