"""The curvature against dense matrices in float64, by autograd on unmodified networks.

Llama and Qwen normalise in float32 whatever the dtype, which is what tolerances of 1e-5 are for.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pytest
import torch
from peft import PeftModel

from blob_pyro.guides import LaplaceGuide, PointEstimateGuide, model_at_mean
from blob_pyro.lora import HierarchicalNormalPrior, unbayesianize
from blob_pyro.models import SequenceClassifier
from blob_pyro.posthoc import laplace

LABEL_TOKENS = [7, 9, 11]


@pytest.fixture
def model(architecture: tuple[str, str], classifier: Any) -> Any:
    """A model of every architecture in float64, with both matrices latent."""
    made = classifier(*architecture).double()
    return model_at_mean(made, PointEstimateGuide(made))


def curvature(posterior: LaplaceGuide, name: str) -> torch.Tensor:
    """The Fisher information of one site, written out, row after row."""
    factors = (
        (posterior.row_basis[name], posterior.row_values[name]),
        (posterior.col_basis[name], posterior.col_values[name]),
    )
    return torch.kron(*(basis @ values.diag() @ basis.mT for basis, values in factors))


def plain_log_probs(net: Any, ids: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """Log probabilities of the classes by unmodified PEFT, for one text without padding."""
    logits = net(input_ids=ids[None]).logits
    found: torch.Tensor = (logits[0, -1, LABEL_TOKENS] if is_causal else logits[0]).log_softmax(-1)
    return found


def linears(net: Any, model: Any) -> dict[str, torch.nn.Linear]:
    """The plain layers that stand where a model's sites were."""
    found = {}
    for name in model.sites:
        linear = net.get_submodule(f"{name.removesuffix('.weight')}.default")
        linear.weight.requires_grad_()
        found[name] = linear
    return found


def expected_factors(
    model: Any, batch: Any, is_causal: bool
) -> dict[str, tuple[torch.Tensor, torch.Tensor, int]]:
    """Both sums over tokens, text by text and class by class, and the number of tokens."""
    net = unbayesianize(copy.deepcopy(model.network)).eval()
    layers = linears(net, model)
    sums = {
        name: [torch.zeros(2 * (size,), dtype=torch.float64) for size in layer.weight.shape]
        for name, layer in layers.items()
    }
    counts = dict.fromkeys(layers, 0)
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        handles = [
            layer.register_forward_hook(
                lambda _module, args, output, name=name, seen=seen: seen.update(
                    {name: (args[0], output)}
                )
            )
            for name, layer in layers.items()
        ]
        log_probs = plain_log_probs(net, ids[mask == 1], is_causal)
        for handle in handles:
            handle.remove()
        scores = [
            torch.autograd.grad(
                log_prob, [output for _, output in seen.values()], retain_graph=True
            )
            for log_prob in log_probs
        ]
        for place, (name, (given, _)) in enumerate(seen.items()):
            by_class = torch.stack([score[place][0] for score in scores])
            for token, vector in enumerate(given[0]):
                if not by_class[:, token].any():
                    continue
                counts[name] += 1
                sums[name][1] += torch.outer(vector, vector).detach()
                for probability, score in zip(log_probs.exp(), by_class[:, token], strict=True):
                    sums[name][0] += (probability * torch.outer(score, score)).detach()
    return {name: (*sums[name], counts[name]) for name in layers}


@pytest.mark.parametrize("max_rank", [3, 16])
def test_of_one_token_it_is_the_exact_gauss_newton_matrix(
    model: Any, architecture: tuple[str, str], max_rank: int, token_batch: Any
) -> None:
    # Three classes have two directions and one token has one input, so rank 3 is exact as well.
    model.num_data = 1
    batch = token_batch(1, 1)
    posterior = laplace(model, [batch], prior_precision=2.0, max_rank=max_rank, progress=False)
    net = unbayesianize(copy.deepcopy(model.network)).eval()
    layers = linears(net, model)
    log_probs = plain_log_probs(net, batch["input_ids"][0], architecture[1] == "CAUSAL_LM")
    probs = log_probs.exp().detach()
    hessian = probs.diag() - torch.outer(probs, probs)
    weights = [layer.weight for layer in layers.values()]
    rows = [torch.autograd.grad(value, weights, retain_graph=True) for value in log_probs]
    moved = 0
    for place, name in enumerate(layers):
        jacobian = torch.stack([row[place].flatten() for row in rows])
        exact = jacobian.mT @ hessian @ jacobian
        torch.testing.assert_close(curvature(posterior, name), exact, atol=1e-6, rtol=1e-5)
        moved += bool(exact.abs().max() > 1e-6)
    # The queries of one token move nothing.
    assert moved >= len(layers) / 2
    torch.testing.assert_close(posterior.log_likelihood, log_probs[batch["labels"][0]].detach())


def test_of_many_tokens_it_is_the_product_of_the_sums(
    model: Any, architecture: tuple[str, str], token_batch: Any
) -> None:
    batches = [token_batch(), token_batch(3, 5, seed=1)]
    model.num_data = 21
    # GPT-2's queries, keys and values are one layer with 48 outputs.
    posterior = laplace(model, batches, prior_precision=2.0, max_rank=48, progress=False)
    totals = [expected_factors(model, b, architecture[1] == "CAUSAL_LM") for b in batches]
    for name in model.sites:
        outputs, inputs = totals[0][name][0] + totals[1][name][0], totals[0][name][1]
        inputs = inputs + totals[1][name][1]
        num_tokens = totals[0][name][2] + totals[1][name][2]
        # 7 of 21 examples were seen.
        exact = 3 * torch.kron(outputs, inputs) / num_tokens
        torch.testing.assert_close(curvature(posterior, name), exact, atol=1e-6, rtol=1e-5)


@pytest.fixture
def fitted(classifier: Any, token_batch: Any) -> LaplaceGuide:
    made = classifier("bert", "SEQ_CLS").double()
    model = model_at_mean(made, PointEstimateGuide(made))
    batches = [token_batch(4), token_batch(4, seed=1)]
    return laplace(
        model, batches, prior_precision="marginal_likelihood", max_rank=4, progress=False
    )


def dense_log_evidence(posterior: LaplaceGuide, precision: float) -> float:
    """The Laplace approximation from determinants of dense matrices."""
    total = float(posterior.log_likelihood)
    for name, mean in posterior.mean().items():
        one = torch.eye(mean.numel(), dtype=torch.float64)
        prior = torch.distributions.Normal(torch.zeros_like(mean), precision**-0.5)
        total += float(prior.log_prob(mean).sum())
        total += 0.5 * mean.numel() * math.log(2 * math.pi)
        total -= 0.5 * float(torch.logdet(curvature(posterior, name) + precision * one))
    return total


def test_the_marginal_likelihood_is_that_of_dense_matrices(fitted: LaplaceGuide) -> None:
    for precision in (0.1, 3.0, 200.0):
        fitted.prior_precision = precision
        expected = dense_log_evidence(fitted, precision)
        assert float(fitted.log_marginal_likelihood()) == pytest.approx(expected, abs=1e-8)


def test_the_prior_precision_is_the_best_of_a_grid(fitted: LaplaceGuide) -> None:
    best = fitted.prior_precision
    grid = [best * 1.1**k for k in range(-15, 16)]
    evidence = [dense_log_evidence(fitted, precision) for precision in grid]
    assert evidence.index(max(evidence)) == 15


def test_the_prior_precision_is_the_models_own(
    classifier: Any, peft_network: Any, token_batch: Any
) -> None:
    model = classifier("bert", "SEQ_CLS", prior_scale=0.1)
    posterior = laplace(model, [token_batch(4)], progress=False)
    assert posterior.prior_precision == pytest.approx(100)
    net = peft_network("bert", "SEQ_CLS")
    other = SequenceClassifier(net, num_data=8, prior=HierarchicalNormalPrior(0.1))
    with pytest.raises(ValueError, match="give a number, or 'marginal_likelihood'"):
        laplace(other, [token_batch(4)], progress=False)


def test_examples_known_by_heart_leave_the_width_of_the_prior(
    classifier: Any, token_batch: Any
) -> None:
    model, batch = classifier("bert", "SEQ_CLS").eval(), token_batch(4)
    sure = model.network.base_model.model.classifier
    with torch.no_grad():
        for parameter in sure.parameters():
            parameter.mul_(1000)
        logits = model.network(**{k: v for k, v in batch.items() if k != "labels"}).logits
    batch["labels"] = logits.argmax(-1)
    posterior = laplace(model, [batch], progress=False)
    for scale in posterior.scale().values():
        assert float(scale.mean()) == pytest.approx(0.2, rel=0.01)


def test_the_likelihood_is_scaled_to_all_data(classifier: Any, token_batch: Any) -> None:
    model = classifier("bert", "SEQ_CLS", num_data=8).double()
    batches = [token_batch(4), token_batch(4, seed=1)]
    halves = [float(laplace(model, [b], progress=False).log_likelihood) for b in batches]
    whole = float(laplace(model, batches, progress=False).log_likelihood)
    assert sum(halves) / 2 == pytest.approx(whole)


def test_low_rank_is_below_the_whole_and_near_the_best_of_its_rank(
    classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama").double()
    batches = [token_batch(4, seed=seed) for seed in range(4)]
    full, short = (
        laplace(model, batches, prior_precision=1.0, max_rank=rank, progress=False)
        for rank in (16, 8)
    )
    for name in model.sites:
        assert short.col_basis[name].shape == (16, 8)
        exact, found = curvature(full, name), curvature(short, name)
        assert torch.linalg.eigvalsh(exact - found).min() > -1e-9 * exact.norm()
        best = full.row_values[name].sum() * full.col_values[name][:8].sum()
        assert 0.8 * best < found.trace() < best


def test_a_stock_adapter_from_a_folder(peft_network: Any, token_batch: Any, tmp_path: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    net.save_pretrained(tmp_path)
    base = copy.deepcopy(net).unload()
    loaded = PeftModel.from_pretrained(base, tmp_path)
    model = SequenceClassifier(loaded, num_data=4, latent=("A", "B"))
    posterior = laplace(model, [token_batch()], progress=False)
    state = net.state_dict()
    for name, mean in posterior.mean().items():
        assert torch.equal(mean, state[f"{name.removesuffix('.weight')}.default.weight"])


def test_model_and_mode_stay_as_they_are(classifier: Any, token_batch: Any) -> None:
    model = classifier("bert", "SEQ_CLS", lora_dropout=0.5).train()
    before = copy.deepcopy(model.network.state_dict())
    found = [laplace(model, [token_batch()], progress=False).log_likelihood for _ in range(2)]
    assert found[0] == found[1]
    assert model.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision(classifier: Any, token_batch: Any) -> None:
    pyro.set_rng_seed(0)
    model = classifier("llama")
    best = {"prior_precision": "marginal_likelihood", "progress": False}
    exact = laplace(copy.deepcopy(model), [token_batch()], **best)
    found = laplace(model.bfloat16(), [token_batch()], **best)
    assert found.prior_precision == pytest.approx(exact.prior_precision, rel=0.1)
    assert all(draw.dtype == torch.bfloat16 for draw in found().values())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the loader gave no batch; there is no curvature without data"),
        ([{"input_ids": torch.tensor([[5]])}], "the batches have no labels; give the labelled"),
    ],
)
def test_a_loader_without_data_is_refused(batches: Any, message: str, classifier: Any) -> None:
    with pytest.raises(ValueError, match=message):
        laplace(classifier("llama"), batches, progress=False)


def test_an_untrained_adapter_has_no_best_precision(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    for site in model.sites.values():
        site.lora_B.data.zero_()
    with pytest.raises(ValueError, match="no prior precision is best, since no logit depends"):
        laplace(model, [token_batch()], prior_precision="marginal_likelihood", progress=False)
    posterior = laplace(model, [token_batch()], prior_precision=4.0, progress=False)
    for scale in posterior.scale().values():
        torch.testing.assert_close(scale, torch.full_like(scale, 0.5))


def test_arguments_are_those_of_the_guide(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama")
    posterior = laplace(
        model, [token_batch()], prior_precision=3.0, max_rank=2, predictive="probit", progress=False
    )
    assert posterior.config() == {"prior_precision": 3.0, "max_rank": 2, "predictive": "probit"}
    with pytest.raises(ValueError, match=r"prior_precision=0.0 must be positive"):
        laplace(model, [token_batch()], prior_precision=0.0, progress=False)
