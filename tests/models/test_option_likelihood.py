from __future__ import annotations

import copy
import random
from itertools import chain
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Predictive

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import unbayesianize
from blob_pyro.models import OptionLikelihood
from blob_pyro.poutine import flipout
from tests.models.architectures import batch_of, peft

Question = tuple[list[int], list[list[int]]]
C = 5


def questions(number: int, seed: int = 0) -> list[Question]:
    """Prompts of 1 to 9 tokens with 2 to 5 options of 1 to 6 tokens."""
    rng = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [rng.randrange(5, 60) for _ in range(rng.randint(1, most))]

    return [(tokens(9), [tokens(6) for _ in range(rng.randint(2, C))]) for _ in range(number)]


def packed(asked: list[Question], extra: int = 0) -> dict[str, torch.Tensor]:
    """Pack by hand: prompts to the right of P columns, options to the left of S."""
    prompt_width = max(len(prompt) for prompt, _ in asked) + extra
    option_width = max(sum(map(len, options)) for _, options in asked) + extra
    batch: dict[str, Any] = {"input_ids": [], "attention_mask": [], "option_ids": []}
    for prompt, options in asked:
        left, texts = prompt_width - len(prompt), [*chain.from_iterable(options)]
        right = option_width - len(texts)
        batch["input_ids"].append([1] * left + prompt + texts + [1] * right)
        batch["attention_mask"].append([0] * left + [1] * (len(prompt) + len(texts)) + [0] * right)
        owners = [k for k, option in enumerate(options, start=1) for _ in option]
        batch["option_ids"].append(owners + [0] * right)
    batch["labels"] = [0] * len(asked)
    return {name: torch.tensor(rows) for name, rows in batch.items()}


def flush_right(asked: list[Question]) -> dict[str, torch.Tensor]:
    """Pack as the collator does: whole rows to the right, so that prompts end anywhere."""
    batch = packed(asked)
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    owners = torch.nn.functional.pad(
        batch["option_ids"], (order.shape[1] - batch["option_ids"].shape[1], 0)
    )
    width = int(batch["attention_mask"].sum(dim=1).max())
    option_width = int((batch["option_ids"] > 0).sum(dim=1).max())
    return {
        "input_ids": batch["input_ids"].gather(1, order)[:, -width:],
        "attention_mask": batch["attention_mask"].gather(1, order)[:, -width:],
        "option_ids": owners.gather(1, order)[:, -option_width:],
        "labels": batch["labels"],
    }


def plain_scores(model: OptionLikelihood, draw: Any, asked: list[Question]) -> torch.Tensor:
    """The oracle: unmodified PEFT, one prompt and one option at a time, nothing padded."""
    net = unbayesianize(copy.deepcopy(model.network), draw).eval()
    scores = torch.full((len(asked), C), -torch.inf)
    for row, (prompt, options) in enumerate(asked):
        for k, option in enumerate(options):
            with torch.no_grad():
                logits = net(input_ids=torch.tensor([prompt + option])).logits[0]
            of_tokens = logits.log_softmax(-1)[
                range(len(prompt) - 1, len(prompt + option) - 1), option
            ]
            scores[row, k] = of_tokens.mean() if model.normalize == "mean" else of_tokens.sum()
    return scores


@pytest.fixture(params=["llama", "qwen2", "gpt2"])
def network(request: Any, peft_network: Any) -> Any:
    return peft_network(request.param)


@pytest.fixture
def program(peft_network: Any) -> Any:
    model = OptionLikelihood(peft_network("llama"), C, num_data=8).eval()
    return model, LowRankGaussianGuide(model, init_scale=0.25)


@pytest.mark.parametrize("normalize", ["mean", "sum"])
def test_scores_are_those_of_each_option_alone(normalize: Any, network: Any) -> None:
    model = OptionLikelihood(network, C, num_data=8, normalize=normalize).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    asked = questions(12)
    for batch in (packed(asked), packed(asked, extra=3), flush_right(asked)):
        found = posterior_predictive(model, guide, [batch], 2, 5, progress=False)
        torch.manual_seed(5)
        for logits in found["logits"]:
            wanted = plain_scores(model, {k: v.detach() for k, v in guide().items()}, asked)
            torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert model.packs


@pytest.mark.filterwarnings("ignore:.*does not keep packed options apart")
@pytest.mark.parametrize("layout", [packed, flush_right])
def test_one_row_an_option_gives_the_same(layout: Any, program: Any) -> None:
    model, guide = program
    asked = layout(questions(9, seed=1))
    together = posterior_predictive(model, guide, [asked], 2, 5, progress=False)["logits"]
    model.packs = False
    alone = posterior_predictive(model, guide, [asked], 2, 5, progress=False)["logits"]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("handler", [None, "example"])
def test_gradients_do_not_depend_on_packing(handler: Any, program: Any) -> None:
    model, guide = program
    batch = packed(questions(4, seed=2))
    found = []
    for packs in (True, False):
        model.packs = packs
        torch.manual_seed(3)
        elbo = ReweightedTrace_ELBO(1, num_particles=2, vectorize_particles=True)
        if handler is None:
            loss = elbo.differentiable_loss(model, guide, **batch)
        else:
            with flipout(per=handler):
                loss = elbo.differentiable_loss(model, guide, **batch)
        loss.backward()
        parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        found.append([p.grad.clone() for p in parameters if p.grad is not None])
        for parameter in parameters:
            parameter.grad = None
    assert len(found[0]) == len(found[1]) > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in found[0])


def test_rows_without_a_prompt_are_refused(program: Any) -> None:
    model, _ = program
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(
        ValueError, match="option_ids has 3 columns and input_ids 3, so there is no prompt"
    ):
        model(input_ids=ids, option_ids=torch.tensor([[1, 1, 2]]))


def test_several_draws_share_a_pass(program: Any) -> None:
    model, guide = program
    batch = packed(questions(3, seed=3))
    one, together = (
        posterior_predictive(model, guide, [batch], 3, 1, parallel=parallel, progress=False)
        for parallel in (False, True)
    )
    torch.testing.assert_close(one, together, rtol=1e-4, atol=1e-5)
    predictive = Predictive(model, guide=guide, num_samples=3, return_sites=("logits",))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    assert predictive(**inputs)["logits"].shape == (3, 3, C)


def test_more_options_than_there_is_room_for_are_refused(program: Any) -> None:
    model, _ = program
    batch = packed([([7, 8], [[9], [10], [11], [12], [13], [14]])])
    with pytest.raises(
        ValueError, match="a question has 6 options but the model has num_options=5"
    ):
        model(**batch)
    model.num_options = 6
    assert model(**batch).shape == (1, 6)


def test_the_trial_leaves_noise_and_mode_alone(peft_network: Any) -> None:
    net = peft_network("llama")
    net.train()
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    trace = pyro.poutine.trace(lambda: OptionLikelihood(net, C, num_data=8)).get_trace()
    assert torch.equal(torch.rand(2), wanted)
    assert not trace.stochastic_nodes
    assert net.training


def test_a_label_beyond_a_questions_options_is_refused(program: Any) -> None:
    model, _ = program
    asked = [([7, 8], [[9], [10, 11]]), ([7], [[9], [10], [12]])]
    batch = packed(asked)
    batch["labels"] = torch.tensor([1, 2])
    model(**batch)
    batch["labels"] = torch.tensor([2, 2])
    with pytest.raises(ValueError, match=r"labels\[0\] = 2 but the model has 2 classes;"):
        model(**batch)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1,), {}, "num_options=1: a choice needs at least two options"),
        ((3,), {"normalize": "max"}, "normalize='max' is unknown; use 'mean' or 'sum'"),
    ],
)
def test_impossible_settings_are_refused(
    arguments: Any, options: Any, message: str, peft_network: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        OptionLikelihood(peft_network("llama"), *arguments, num_data=8, **options)


def test_only_the_options_columns_reach_the_head(program: Any) -> None:
    model, _ = program
    seen = []
    head = model.network.get_base_model().lm_head
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    batch = packed(questions(4, seed=5))
    model(**batch)
    assert seen == [(4, batch["option_ids"].shape[1] + 1, 16)]


def test_bfloat16_scores_are_close(program: Any) -> None:
    model, guide = program
    batch = packed(questions(4, seed=6))
    wanted = posterior_predictive(model, guide, [batch], 0, progress=False)["logits"]
    found = posterior_predictive(model.bfloat16(), guide.bfloat16(), [batch], 0, progress=False)[
        "logits"
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.1)


def test_a_question_without_a_prompt_is_refused(program: Any) -> None:
    model, _ = program
    batch = batch_of([[5, 6, 7, 8], [7, 8]], "left")
    with pytest.raises(ValueError, match="row 1 has no prompt, so nothing predicts the first tok"):
        model(**batch, option_ids=torch.tensor([[1, 2], [1, 2]]))


@pytest.mark.filterwarnings("ignore:.*does not keep packed options apart")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_does_not_decide_who_packs(dtype: torch.dtype) -> None:
    # A recurrent network, whose options change each other by less than bfloat16 rounds.
    for name, packs in (("RecurrentGemmaForCausalLM", False), ("Qwen2MoeForCausalLM", True)):
        assert OptionLikelihood(peft(name).to(dtype), 3, num_data=2).packs == packs


def test_an_attention_that_was_not_tried_is_refused(peft_network: Any) -> None:
    """Packed options need an attention that takes a mask of its own, as not all do."""
    model = OptionLikelihood(peft_network("llama"), C, num_data=3).eval()
    batch = packed(questions(3))
    assert model.packs
    own = model.network.get_base_model().config._attn_implementation
    wanted = model(**batch)
    model.network.set_attn_implementation("eager" if own != "eager" else "sdpa")
    with pytest.raises(ValueError, match=r"attention is .* was tried when this model was made"):
        model(**batch)
    model.network.set_attn_implementation(own)
    assert model(**batch).shape == wanted.shape
