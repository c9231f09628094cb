"""Each option of Hugging Face's generate: followed by the average, or refused before decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from blob_pyro import generate
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import BayesianLora, CausalLM
from tests.models.architectures import batch_of, peft, texts_of
from tests.models.test_architectures import by_hand

Program = tuple[CausalLM, LowRankGaussianGuide]
PROMPT = torch.tensor([[5, 6, 7, 8]])
LENGTH: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": None}


class Forbid(LogitsProcessor):
    """Never write some tokens."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.tokens] = -torch.inf
        return scores


class Listener(BaseStreamer):
    def __init__(self) -> None:
        self.heard: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.heard += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def program(peft_network: Any) -> Program:
    model = CausalLM(peft_network("llama"), num_data=8)
    return model, LowRankGaussianGuide(model, init_scale=0.8)


def free(program: Program, **options: Any) -> torch.Tensor:
    return generate(*program, PROMPT, num_samples=3, seed=0, **{**LENGTH, **options}).tokens[0]


def test_a_configuration_says_where_texts_end(program: Program) -> None:
    end = int(free(program)[1])
    passed = generate(*program, PROMPT, num_samples=3, seed=0, max_new_tokens=5, eos_token_id=end)
    for end_of in (end, [end, 59]):
        config = GenerationConfig(eos_token_id=end_of, max_new_tokens=5, pad_token_id=1)
        both = torch.cat([PROMPT, PROMPT.flip(1)])
        found = generate(*program, both, num_samples=3, seed=0, generation_config=config)
        last = found.tokens[0].tolist().index(end)
        assert torch.equal(found.tokens[0, : last + 1], passed.tokens[0, : last + 1])
        torch.testing.assert_close(found.total[0, : last + 1], passed.total[0, : last + 1])
        assert found.total[0, last + 1 :].abs().sum() == 0
        assert found.total[1].min() > 0


def test_a_processor_works_on_the_average_and_the_entropy_is_that_before_it(
    program: Program,
) -> None:
    first = int(free(program)[0])
    plain = generate(*program, PROMPT, num_samples=3, seed=0, **LENGTH)
    for processors in ([Forbid(first)], LogitsProcessorList([Forbid(first)])):
        found = generate(
            *program, PROMPT, num_samples=3, seed=0, logits_processor=processors, **LENGTH
        )
        assert first not in found.tokens
        torch.testing.assert_close(found.total[:, 0], plain.total[:, 0])
    forbidden = free(program, suppress_tokens=[first])
    assert torch.equal(found.tokens[0], forbidden)


def test_streamers_and_lengths_are_followed(program: Program) -> None:
    text = free(program)
    listener = Listener()
    assert torch.equal(free(program, streamer=listener), text)
    assert listener.heard == [*PROMPT[0].tolist(), *text.tolist()]
    stop = StoppingCriteriaList([MaxLengthCriteria(6)])
    assert torch.equal(free(program, stopping_criteria=stop), text[:2])
    by_length = generate(*program, PROMPT, num_samples=3, seed=0, max_length=7, eos_token_id=None)
    assert torch.equal(by_length.tokens[0], text[:3])
    assert by_length.total.shape == (1, 3)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 2}, "num_beams=2: beams"),
    ({"generation_config": GenerationConfig(num_beams=3)}, "num_beams=3: beams"),
    ({"return_dict_in_generate": True}, "return_dict_in_generate=True: generate returns a Generat"),
    ({"guidance_scale": 1.5}, "guidance_scale=1.5: guidance runs the network twice"),
    ({"negative_prompt_ids": PROMPT}, "negative_prompt_ids=Tensor: guidance"),
    ({"assistant_model": torch.nn.Linear(1, 1)}, "assistant_model=Linear: an assistant"),
    ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens=2: drafts"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6: contrastive search"),
    ({"dola_layers": "low"}, "dola_layers=low: DoLa"),
    ({"custom_generate": "x/y"}, "custom_generate=x/y: code of its own"),
    ({"cache_implementation": "static"}, "cache_implementation=static: a cache of fixed size"),
    ({"position_ids": PROMPT}, r"position_ids is a tensor of shape \(1, 4\), which is not known"),
    ({"inputs_embeds": torch.zeros(1, 4, 16)}, r"inputs_embeds is a tensor of shape \(1, 4, 16\)"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_the_average_cannot_follow_is_refused_before_it_is_drawn(
    options: Any, message: str, program: Program
) -> None:
    model, _ = program

    def guide(**_: Any) -> None:
        raise AssertionError("the guide was asked for a draw")

    with pytest.raises(ValueError, match=message):
        generate(model, guide, PROMPT, **options)


def test_an_encoder_decoder_is_refused() -> None:
    model = BayesianLora(peft("BartForConditionalGeneration"), 4)
    with pytest.raises(ValueError, match="BartForConditionalGeneration is an encoder-decoder, who"):
        generate(model, LowRankGaussianGuide(model), PROMPT)


def test_a_network_whose_cache_mixes_rows_writes_without_it() -> None:
    model = CausalLM(peft("RwkvForCausalLM"), num_data=4)
    guide = LowRankGaussianGuide(model)
    texts = texts_of(5, 5)
    net = peft("RwkvForCausalLM", guide.mean())
    wanted = [by_hand("RwkvForCausalLM", [net], text) for text in texts]
    options: Any = {"num_samples": 0, "max_new_tokens": 4, "eos_token_id": None}
    prompts = batch_of(texts)["input_ids"]
    found = generate(model, guide, prompts, use_cache=False, **options)
    assert found.tokens.tolist() == wanted
    with pytest.raises(ValueError, match=r"Rwkv.*pass use_cache=False"):
        generate(model, guide, prompts, **options)
