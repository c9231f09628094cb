"""Programs over networks of pictures and texts, against unmodified PEFT and one example at a time.

The networks are random and tiny, the processors are Transformers' own, and the pictures are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from peft import PeftModel
from pyro import poutine
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from blob_pyro import generate, load_posterior, save_posterior
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import BayesianLora, CausalLM, LabelTokenClassifier, OptionLikelihood
from blob_pyro.models.padding import align_padding
from blob_pyro.posthoc import laplace
from blob_pyro.poutine import flipout
from tests.models.architectures import SIZES, Tensors, with_adapter, with_draw

TEXT = {name: value for name, value in SIZES.items() if not name.startswith("decoder")}
PICTURE = {"hidden_size": 16, "patch_size": 4, "initializer_range": 0.3}
WORDS = [
    *("<pad>", "<s>", "</s>", "<unk>"),
    *("what", "is", "it", "?", "red", "green", "square", "and", "the"),
]
ANSWERS = [WORDS.index(word) for word in ("red", "green", "square")]

Built = tuple[Any, Any, str]


def tokenizer(*marks: str) -> PreTrainedTokenizerFast:
    words = {word: place for place, word in enumerate((*WORDS, *marks))}
    words_only = Tokenizer(WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_only, unk_token="<unk>", pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", additional_special_tokens=list(marks),
    )  # fmt: skip


def qwen2_vl() -> Built:
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    words = tokenizer(*marks)
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, temporal_patch_size=1, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    # Its processor of videos wants torchvision.
    with mock.patch.object(Qwen2VLProcessor, "check_argument_for_proper_class"):
        processor = Qwen2VLProcessor(pictures, words, None)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            **PICTURE, "embed_dim": 16, "depth": 1, "num_heads": 2, "temporal_patch_size": 1,
        },
        **dict(zip(names, words.convert_tokens_to_ids(marks), strict=True)),
    )  # fmt: skip
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return Qwen2VLForConditionalGeneration(config), processor, mark


def idefics3() -> Built:
    tiles = [f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    words = tokenizer(*marks)
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    config = Idefics3Config(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            **PICTURE, "image_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = Idefics3Processor(pictures, words, image_seq_len=4)
    return Idefics3ForConditionalGeneration(config), processor, "<image>"


NETWORKS: dict[str, Callable[[], Built]] = {"Qwen2-VL": qwen2_vl, "Idefics3": idefics3}
OF_TEXTS = r".*(language|text)_model.*(q_proj|down_proj)"
EVERYWHERE = r".*(q_proj|qkv|fc1|down_proj)"
CASES = [(name, layers) for name in NETWORKS for layers in (OF_TEXTS, EVERYWHERE)]
cases = pytest.mark.parametrize(
    ("name", "layers"), CASES, ids=[f"{n}-{'texts' if t == OF_TEXTS else 'all'}" for n, t in CASES]
)


def peft(name: str, layers: str, weights: Tensors | None = None) -> PeftModel:
    """The same random network each time, with an ordinary adapter of the given ``lora_A``."""
    return with_draw(made(name, layers), weights)


@cache
def made(name: str, layers: str) -> PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, _, _ = NETWORKS[name]()
        return with_adapter(network, "CAUSAL_LM", layers)


@cache
def processor_of(name: str) -> tuple[Any, str]:
    """The network's own processor, and the mark of a picture."""
    _, processor, mark = NETWORKS[name]()
    return processor, mark


def questions(name: str) -> list[tuple[str, list[np.ndarray]]]:
    """Texts with two pictures of different sizes, with one, and with none."""
    _, mark = processor_of(name)
    rng = np.random.default_rng(0)
    wide, tall, small = (
        rng.integers(1, 255, (*size, 3), dtype=np.uint8) for size in ((16, 24), (32, 16), (8, 8))
    )
    return [
        (f"{mark} and the {mark} what is it ? red", [wide, tall]),
        (f"is the {mark} red ? green", [small]),
        ("what is it ? square", []),
    ]


def read(name: str, asked: list[tuple[str, list[np.ndarray]]], side: str = "right") -> Tensors:
    """What the network's own processor makes of questions."""
    processor, _ = processor_of(name)
    processor.tokenizer.padding_side = side
    texts, pictures = zip(*asked, strict=True)
    shown = list(pictures) if any(pictures) else None
    return {**processor(text=list(texts), images=shown, return_tensors="pt", padding=True)}


def labelled(batch: Tensors) -> Tensors:
    """A batch whose last three words are to be learned."""
    mask = batch["attention_mask"]
    learned = (mask.flip(1).cumsum(1).flip(1) <= 3) & (mask == 1)
    return {**batch, "labels": batch["input_ids"].masked_fill(~learned, -100)}


def label_token(name: str, layers: str) -> LabelTokenClassifier:
    return LabelTokenClassifier(peft(name, layers), ANSWERS, num_data=8).eval()


def causal_lm(name: str, layers: str) -> CausalLM:
    return CausalLM(peft(name, layers), num_data=8).eval()


@torch.no_grad()
def of_peft(name: str, layers: str, likelihood: Any, weights: Tensors) -> torch.Tensor:
    """What PEFT gives for each question alone."""
    net, found = peft(name, layers, weights), []
    for question in questions(name):
        logits = net(**read(name, [question]), use_cache=False).logits[0]
        found.append(logits[-1:, ANSWERS] if likelihood is label_token else logits[-4:-1])
    return torch.cat(found)


def answers(model: BayesianLora, weights: Tensors, batch: Tensors) -> torch.Tensor:
    inputs = labelled(batch) if isinstance(model, CausalLM) else batch
    with torch.no_grad():
        logits: torch.Tensor = poutine.condition(model, weights)(**inputs)
    return logits


close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
likelihoods = pytest.mark.parametrize("likelihood", [label_token, causal_lm])


@likelihoods
@pytest.mark.parametrize("side", ["left", "right"])
@cases
def test_a_draw_of_a_batch_is_that_of_each_example_alone(
    name: str, layers: str, side: str, likelihood: Any
) -> None:
    model = likelihood(name, layers)
    first, second = LowRankGaussianGuide(model, init_scale=0.7).draws(2)
    batch = read(name, questions(name), side)
    wanted = of_peft(name, layers, likelihood, first)
    close(answers(model, first, batch), wanted)
    assert (answers(model, second, batch) - wanted).abs().max() > 1e-2
    assert {"pixel_values"} < {*batch}


@likelihoods
@cases
def test_draws_share_a_pass_where_only_the_network_of_texts_is_adapted(
    name: str, layers: str, likelihood: Any
) -> None:
    model = likelihood(name, layers)
    draws = LowRankGaussianGuide(model, init_scale=0.7).draws(3)
    stacked = {site: torch.stack([draw[site] for draw in draws])[:, None] for site in model.sites}
    batch = read(name, questions(name))
    if layers == EVERYWHERE:
        with pytest.raises(ValueError, match=r"'base_.*(vision|visual).*one draw a pass"):
            answers(model, stacked, batch)
        return
    wanted = torch.stack([of_peft(name, layers, likelihood, draw) for draw in draws])
    close(answers(model, stacked, batch), wanted)


@cases
def test_a_data_set_is_predicted_with_as_many_draws_a_pass_as_are_right(
    name: str, layers: str
) -> None:
    model = label_token(name, layers)
    guide = LowRankGaussianGuide(model, init_scale=0.7)
    batches = [read(name, questions(name)), read(name, questions(name)[1:2])]
    found = posterior_predictive(model, guide, batches, 3, seed=1, progress=False)
    torch.manual_seed(1)
    draws = guide.draws(3)
    wanted = torch.stack([of_peft(name, layers, label_token, draw) for draw in draws])
    close(found["logits"], torch.cat([wanted, wanted[:, 1:2]], dim=1))


@likelihoods
@cases
def test_flipout_gives_each_example_a_weight_where_texts_are_read(
    name: str, layers: str, likelihood: Any
) -> None:
    model = likelihood(name, layers)
    guide = LowRankGaussianGuide(model, init_scale=0.7)
    batch = read(name, questions(name))
    inputs = labelled(batch) if likelihood is causal_lm else batch
    with flipout():
        trace = poutine.trace(guide).get_trace(**inputs)
        found = poutine.replay(model, trace)(**inputs).detach()
    applied = {name: site.projection._applied for name, site in model.sites.items()}
    weights = {site: function.weight.detach() for site, function in applied.items()}
    pictured = {site for site in weights if "vision" in site or "visual" in site}
    assert all(len(weights[site]) == (1 if site in pictured else 3) for site in weights)
    assert bool(pictured) == (layers == EVERYWHERE)
    each = [
        of_peft(name, layers, likelihood, {s: w[row % len(w)] for s, w in weights.items()})
        for row in range(3)
    ]
    size = len(found) // 3
    close(found, torch.cat([e[row * size : (row + 1) * size] for row, e in enumerate(each)]))


@cases
def test_late_latents_share_the_layers_below_them(name: str, layers: str) -> None:
    net = peft(name, layers if layers == EVERYWHERE else r".*layers\.1\..*down_proj")
    model = LabelTokenClassifier(net, ANSWERS, num_data=8).eval()
    guide, batch = LowRankGaussianGuide(model, init_scale=0.7), read(name, questions(name))
    ways = [
        posterior_predictive(model, guide, [batch], 3, 0, parallel=way, progress=False)["logits"]
        for way in (True, False)
    ]
    close(*ways)
    assert bool(model.trunk.layers) == (layers == OF_TEXTS)


@cases
def test_gradients_are_the_same_where_layers_are_recomputed(name: str, layers: str) -> None:
    batch = labelled(read(name, questions(name)))
    gradients = []
    for recomputed in (False, True):
        model = causal_lm(name, layers).train()
        (draw,) = LowRankGaussianGuide(model, init_scale=0.7).draws(1)
        if recomputed:
            model.gradient_checkpointing_enable()
            draw = gradients[0][0]
        draw = {site: weight.detach().requires_grad_() for site, weight in draw.items()}
        poutine.condition(model, draw)(**batch).logsumexp(-1).sum().backward()
        gradients.append((draw, [weight.grad for weight in draw.values()]))
    close(gradients[1][1], gradients[0][1])


@cases
def test_a_posterior_comes_back_from_its_folder(name: str, layers: str, tmp_path: Any) -> None:
    model = label_token(name, layers)
    guide = LowRankGaussianGuide(model, init_scale=0.7)
    save_posterior(tmp_path, model, guide)
    torch.manual_seed(0)
    again, loaded = load_posterior(tmp_path, NETWORKS[name]()[0])
    mean, batch = guide.mean(), read(name, questions(name))
    close(answers(again.eval(), loaded.mean(), batch), of_peft(name, layers, label_token, mean))


@cases
def test_texts_are_written_without_pictures_and_refused_with_them(name: str, layers: str) -> None:
    model = causal_lm(name, layers)
    guide = LowRankGaussianGuide(model, init_scale=0.7)
    asked = [("what is it ?", []), ("is the red square", [])] * 2
    batch = read(name, asked)
    prompts = {key: batch[key] for key in ("input_ids", "attention_mask")}
    options: Any = {"max_new_tokens": 4, "eos_token_id": None}
    written = generate(model, guide, **prompts, num_samples=3, seed=1, **options).tokens
    torch.manual_seed(1)
    nets = [peft(name, layers, draw) for draw in guide.draws(3)]
    for row, ids in enumerate(prompts["input_ids"]):
        text = ids[None]
        for _ in range(4):
            with torch.no_grad():
                average = sum(net(text).logits[0, -1].softmax(-1) for net in nets)
            text = torch.cat([text, average.argmax()[None, None]], dim=1)
        assert torch.equal(written[row], text[0, -4:])
    pictured = read(name, questions(name))
    with pytest.raises(ValueError, match=r"is a tensor.*pass input_ids and attention_mask only"):
        generate(model, guide, **pictured, num_samples=3, **options)


def test_options_and_laplace_are_refused_by_name() -> None:
    batch = read("Qwen2-VL", questions("Qwen2-VL"))
    net = peft("Qwen2-VL", OF_TEXTS)
    options = OptionLikelihood(net, 2, num_data=8)
    with pytest.raises(ValueError, match=r"reads texts alone.*pixel_values.*LabelTokenClassifier"):
        options(**batch, option_ids=torch.ones_like(batch["input_ids"])[:, -3:])
    model = label_token("Qwen2-VL", EVERYWHERE)
    with pytest.raises(ValueError, match=r"'base_.*visual.*text alone never reaches"):
        laplace(model, [{**batch, "labels": torch.tensor([0, 1, 2])}], progress=False)


def test_inputs_of_unknown_rows_are_refused_by_name() -> None:
    model, batch = label_token("Qwen2-VL", OF_TEXTS), read("Qwen2-VL", questions("Qwen2-VL"))
    positions = torch.zeros(3, *batch["input_ids"].shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"position_ids has the shape \(3, 3, 2\d\).*leave"):
        model(**batch, position_ids=positions)
    with pytest.raises(ValueError, match=r"sizes is \[1, 2\].*return_tensors='pt'"):
        model(**batch, sizes=[1, 2])


def test_pictures_that_can_not_be_repeated_are_refused_before_any_draw_is_used() -> None:
    model, batch = label_token("Qwen2-VL", OF_TEXTS), read("Qwen2-VL", questions("Qwen2-VL"))
    visual = model.network.get_base_model().model.visual
    own = visual.forward

    def mixing(pixels: torch.Tensor, **options: Any) -> Any:
        # What it gives for a picture depends on how many there are.
        return own(pixels - pixels.mean() * len(pixels) / 50, **options)

    visual.forward = mixing
    guide = LowRankGaussianGuide(model, init_scale=0.7)
    with pytest.raises(ValueError, match=r"Qwen2VLFor.*other logits.*pixel_values.*repeated"):
        posterior_predictive(model, guide, [batch], 3, parallel=3, progress=False)
    one_by_one, chosen = (
        posterior_predictive(model, guide, [batch], 3, 0, parallel=way, progress=False)["logits"]
        for way in (False, True)
    )
    close(chosen, one_by_one)


def test_masks_of_pictures_move_with_the_padding() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    seen = torch.arange(12).reshape(2, 3, 2)
    aligned = align_padding({"attention_mask": mask, "cross_attention_mask": seen}, "right")
    assert aligned["cross_attention_mask"][0].tolist() == [[2, 3], [4, 5], [0, 1]]
