from __future__ import annotations

from typing import Any

import pytest
import torch

from blob_pyro import generate
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_draws
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import CausalLM

Batch = dict[str, torch.Tensor]
TARGETS = {"gpt2": ["c_attn"]}
causal = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])


@pytest.fixture
def program(peft_network: Any) -> Any:
    def make(name: str = "llama", **options: Any) -> Any:
        model = CausalLM(peft_network(name), num_data=8, **options)
        return model, LowRankGaussianGuide(model, init_scale=0.81)

    return make


@pytest.fixture
def prompts(token_batch: Any) -> Batch:
    batch = token_batch(rows=3, tokens=5)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def seeded_draws(guide: Any, num_samples: int, seed: int) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        return posterior_draws(guide, num_samples, {})


def next_token(model: Any, draw: Any, text: torch.Tensor) -> torch.Tensor:
    """Log probabilities after one unpadded text, without any cache."""
    with torch.no_grad(), model.under([draw], torch.Size([1, len(text)])):
        return model.network(input_ids=text[None], use_cache=False).logits[0, -1].log_softmax(-1)


def by_hand(model: Any, draws: Any, prompt: torch.Tensor, length: int) -> list[list[float]]:
    """Greedy decoding of the average, one text, draw after draw: token, total, epistemic."""
    text, rows = prompt, []
    for _ in range(length):
        log_probs = torch.stack([next_token(model, draw, text) for draw in draws]).double()
        mean = log_probs.exp().mean(0)
        total = -(mean * mean.log()).sum()
        expected = -(log_probs.exp() * log_probs).sum(-1).mean()
        rows.append([int(mean.argmax()), float(total), float(total - expected)])
        text = torch.cat([text, mean.argmax()[None]])
    return rows


@causal
def test_greedy_text_and_uncertainty_are_those_of_the_average(
    name: str, program: Any, prompts: Batch
) -> None:
    model, guide = program(name)
    found = generate(
        model, guide, **prompts, num_samples=4, seed=3, max_new_tokens=5, eos_token_id=None
    )
    model.eval()
    draws = seeded_draws(guide, 4, 3)
    for row in range(3):
        prompt = prompts["input_ids"][row][prompts["attention_mask"][row] == 1]
        tokens, total, epistemic = zip(*by_hand(model, draws, prompt, 5), strict=True)
        assert found.tokens[row].tolist() == [*tokens]
        torch.testing.assert_close(found.total[row], torch.tensor(total), atol=1e-4, rtol=0)
        torch.testing.assert_close(found.epistemic[row], torch.tensor(epistemic), atol=1e-4, rtol=0)
    assert found.epistemic.min() > 1e-3


def test_sampling_follows_the_average(program: Any) -> None:
    model, guide = program()
    prompt = torch.tensor([[5, 6, 7]])
    rows = 4000
    found = generate(
        model, guide, prompt.expand(rows, -1), num_samples=3, seed=1, max_new_tokens=1,
        do_sample=True, top_k=0, eos_token_id=None,
    )  # fmt: skip
    model.eval()
    draws = seeded_draws(guide, 3, 1)
    mean = torch.stack([next_token(model, draw, prompt[0]) for draw in draws]).exp().mean(0)
    counts = torch.bincount(found.tokens[:, 0], minlength=60) / rows
    error = (mean * (1 - mean) / rows).sqrt()
    # 60 tokens: one of them is 4.5 standard errors off once in 2500 seeds.
    assert ((counts - mean) / error).abs().max() < 4.5
    single = next_token(model, draws[0], prompt[0]).exp()
    assert ((counts - single) / error).abs().max() > 10


def test_one_text_a_draw(program: Any, prompts: Batch) -> None:
    model, guide = program()
    options: Any = {"max_new_tokens": 5, "eos_token_id": None}
    found = generate(model, guide, **prompts, num_samples=3, seed=2, per_draw=True, **options)
    assert found.tokens.shape == found.total.shape == (3, 3, 5)
    model.eval()
    draws = seeded_draws(guide, 3, 2)
    assert not torch.equal(found.tokens[0], found.tokens[1])
    for draw, tokens, total in zip(draws, found.tokens, found.total, strict=True):
        prompt = prompts["input_ids"][0]
        wanted, entropies, _ = zip(*by_hand(model, [draw], prompt, 5), strict=True)
        assert tokens[0].tolist() == [*wanted]
        torch.testing.assert_close(total[0], torch.tensor(entropies), atol=1e-4, rtol=0)
    assert torch.equal(found.epistemic, torch.zeros(3, 3, 5))


def test_a_text_ends_by_itself(program: Any, prompts: Batch) -> None:
    model, guide = program()
    options: Any = {"num_samples": 2, "seed": 0, "max_new_tokens": 6}
    free = generate(model, guide, **prompts, **options, eos_token_id=None)
    end = int(free.tokens[0, 2])
    found = generate(model, guide, **prompts, **options, eos_token_id=end)
    first = free.tokens[0].tolist().index(end)
    assert found.tokens[0, : first + 1].tolist() == free.tokens[0, : first + 1].tolist()
    assert set(found.tokens[0, first + 1 :].tolist()) <= {1}
    assert found.total[0, : first + 1].min() > 0
    assert found.total[0, first + 1 :].abs().sum() == found.epistemic[0, first + 1 :].sum() == 0


def test_options_are_applied_to_the_average(program: Any, prompts: Batch) -> None:
    model, guide = program()
    options: Any = {"num_samples": 3, "seed": 0, "max_new_tokens": 12, "eos_token_id": None}
    found = generate(model, guide, **prompts, **options, no_repeat_ngram_size=1)
    for prompt, tokens in zip(prompts["input_ids"].tolist(), found.tokens.tolist(), strict=True):
        assert len(set(tokens)) == 12
        assert not set(prompt) - {1} & set(tokens)
    several = generate(model, guide, **prompts, **options, do_sample=True, num_return_sequences=2)
    assert several.tokens.shape == several.total.shape == (6, 12)


def test_the_model_is_left_as_it_was(program: Any, prompts: Batch) -> None:
    model, guide = program()
    model.train()
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    generate(model, guide, **prompts, num_samples=2, seed=0, max_new_tokens=2)
    assert torch.equal(torch.rand(2), expected)
    assert model.network.training
    network = model.network.get_base_model()
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_a_hyper_prior_is_drawn_too(program: Any, prompts: Batch) -> None:
    model, guide = program(prior=HierarchicalNormalPrior(0.2))
    found = generate(model, guide, **prompts, num_samples=2, seed=0, max_new_tokens=2)
    assert found.tokens.shape[0] == 3


def test_what_cannot_be_done_is_refused(program: Any, classifier: Any, prompts: Batch) -> None:
    model, guide = program()
    with pytest.raises(
        ValueError, match="num_beams=2: beams would have to be moved in the draws' caches"
    ):
        generate(model, guide, **prompts, num_beams=2)
    encoder = classifier("bert", "SEQ_CLS")
    with pytest.raises(ValueError, match="BertForSequenceClassification writes no text; generate"):
        generate(encoder, LowRankGaussianGuide(encoder), **prompts)
