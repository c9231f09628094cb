"""Tiny random networks of the supported architectures, and a clean Pyro for every test."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pyro.poutine.messenger import Messenger
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.lora import unbayesianize
from blob_pyro.models import Classifier, LabelTokenClassifier, SequenceClassifier
from blob_pyro.poutine import local_param
from blob_pyro.tasks import helpdesk

VOCAB_SIZE = 60
PAD = 1
# Wide initial weights: with the usual 0.02 so small a network answers the same whatever it reads.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
}
DECODER: dict[str, Any] = {
    **SIZES,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "pad_token_id": PAD,
    "num_labels": 3,
}
ENCODER: dict[str, Any] = {
    **SIZES,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": PAD,
    "num_labels": 3,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "num_labels": 3,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}

CAUSAL_LMS = {
    "llama": lambda: (LlamaForCausalLM(LlamaConfig(**DECODER)), ["q_proj", "v_proj"]),
    "qwen2": lambda: (Qwen2ForCausalLM(Qwen2Config(**DECODER)), ["q_proj", "v_proj"]),
    "gpt2": lambda: (GPT2LMHeadModel(GPT2Config(**GPT2)), ["c_attn"]),
}
CLASSIFIERS = {
    "bert": lambda: (BertForSequenceClassification(BertConfig(**ENCODER)), ["query", "value"]),
    "roberta": lambda: (
        RobertaForSequenceClassification(RobertaConfig(**ENCODER)),
        ["query", "value"],
    ),
    "gpt2": lambda: (GPT2ForSequenceClassification(GPT2Config(**GPT2)), ["c_attn"]),
    "llama": lambda: (
        LlamaForSequenceClassification(LlamaConfig(**DECODER)),
        ["q_proj", "v_proj"],
    ),
    "qwen2": lambda: (
        Qwen2ForSequenceClassification(Qwen2Config(**DECODER)),
        ["q_proj", "v_proj"],
    ),
}
LABEL_TOKENS = [7, 9, 11]
# What a tokenizer has to know to answer by letter or word.
ANSWERS = ["Answer: A B C D E true false yes no"]
ARCHITECTURES = [
    *((name, "CAUSAL_LM") for name in CAUSAL_LMS),
    *((name, "SEQ_CLS") for name in CLASSIFIERS),
]


def make_network(name: str, task_type: str = "CAUSAL_LM", **options: Any) -> PeftModel:
    """Make a tiny PEFT model whose ``lora_B`` is not zero, so that ``A`` matters."""
    table = CAUSAL_LMS if task_type == "CAUSAL_LM" else CLASSIFIERS
    network, targets = table[name]()
    # GPT-2 keeps its weights transposed (Conv1D).
    settings = {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": targets,
        "fan_in_fan_out": name == "gpt2",
        **options,
    }
    net = get_peft_model(network, LoraConfig(task_type=task_type, **settings))
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    return net


def make_classifier(
    name: str,
    task_type: str = "CAUSAL_LM",
    num_data: int = 8,
    prior_scale: float = 0.2,
    **options: Any,
) -> Classifier:
    """Make the model over a tiny network that belongs to its task type."""
    net = make_network(name, task_type, **options)
    if task_type == "CAUSAL_LM":
        return LabelTokenClassifier(net, LABEL_TOKENS, num_data, prior_scale)
    return SequenceClassifier(net, num_data, prior_scale)


def make_batch(rows: int = 4, tokens: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make a right-padded batch with labels in 0..2."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, VOCAB_SIZE, (rows, tokens), generator=generator)
    mask = torch.ones_like(input_ids)
    for row in range(rows):
        mask[row, tokens - row % 3 :] = 0
    return {
        "input_ids": input_ids.masked_fill(mask == 0, PAD),
        "attention_mask": mask,
        "labels": torch.randint(0, 3, (rows,), generator=generator),
    }


@pytest.fixture(autouse=True)
def _clean_pyro() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep tiny networks on one thread: on shared cores a second one costs ten times as much."""
    threads = torch.get_num_threads()
    if "slow" not in request.keywords:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that knows the help desk's and the answers."""
    task = helpdesk()
    words = Tokenizer(WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    trainer = WordLevelTrainer(special_tokens=["<unk>", "<pad>", "</s>"])
    words.train_from_iterator(
        [*task.splits["train"]["text"], *task.class_names, task.prompt, *ANSWERS], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )


@pytest.fixture
def base_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """A tiny random causal LM and its tokenizer as a local folder."""
    folder = tmp_path / "tiny-llama"
    sizes = {**DECODER, "vocab_size": len(tokenizer)}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """A folder of OpenBookQA- and ARC-like questions, written here."""
    for place, stem in (("openbookqa/main", "question_stem"), ("ai2_arc/ARC-Easy", "question")):
        folder = tmp_path / "data" / place
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            rows = [
                {
                    "id": f"{split}-{i}",
                    stem: f"the printing problem {i}",
                    "choices": {"text": ["login", "the phone", "email"], "label": ["A", "B", "C"]},
                    "answerKey": "ABC"[i % 3],
                }
                for i in range(6)
            ]
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "data")


@pytest.fixture
def peft_network() -> Callable[..., PeftModel]:
    """Give the maker of tiny PEFT models."""
    return make_network


@pytest.fixture
def token_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Give the maker of batches."""
    return make_batch


@pytest.fixture
def classifier() -> Callable[..., Classifier]:
    """Give the maker of tiny models."""
    return make_classifier


@pytest.fixture
def plain_logits() -> Callable[..., torch.Tensor]:
    """Logits of the network alone: one text at a time, its padding cut off, every position."""

    def logits(
        net: nn.Module, batch: dict[str, torch.Tensor], tokens: list[int] | None = None
    ) -> torch.Tensor:
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        with torch.no_grad():
            outputs = [net(input_ids=ids[mask == 1][None]).logits for ids, mask in rows]
        if tokens is None:
            return torch.cat(outputs)
        return torch.cat([output[:, -1, tokens] for output in outputs])

    return logits


@pytest.fixture(params=ARCHITECTURES, ids="-".join)
def architecture(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name and task type of every network, as ``classifier`` and ``peft_network`` take them."""
    return request.param


@pytest.fixture
def z_score() -> Callable[..., float]:
    """Give the largest distance of a sample's means from what was expected, in standard errors."""

    def largest(sample: torch.Tensor, expected: torch.Tensor | float) -> float:
        error = sample.std(dim=0) / len(sample) ** 0.5
        return float(((sample.mean(dim=0) - expected).abs() / error).max())

    return largest


def _z_scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Compare the means of two samples along dimension 0, in standard errors."""
    variance = left.var(0) / len(left) + right.var(0) / len(right)
    # The floor is rounding: without noise on either side the means have to be equal.
    floor = 1e-12 * (1 + left.mean(0).square())
    return (left.mean(0) - right.mean(0)).abs() / (variance + floor).sqrt()


@pytest.fixture
def z_scores() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return _z_scores


LABEL_TOKENS = [7, 9, 11]
Tensors = dict[str, torch.Tensor]
Program = Callable[..., tuple[Classifier, LowRankGaussianGuide]]


class GivenNoise(Messenger):
    """Draw ``mean + stddev * noise`` (a reparametrized draw, unobserved) for given noise."""

    def __init__(self, noise: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise:
            noise = self.noise[msg["name"]]
            # Not "done", so that a plate of draws still expands the distribution.
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * noise


class FixedGuide:
    """A guide that goes round a list of given noises, one a call."""

    def __init__(self, guide: Any, noises: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.guide = guide
        self.noises = itertools.cycle(noises)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with GivenNoise(next(self.noises)):
            return self.guide(*args, **kwargs)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Tensors are tiny: a second thread costs more than it brings, much more on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fixed_guide() -> type[FixedGuide]:
    return FixedGuide


class NormalGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loc = local_param("loc", self.loc)
        scale = local_param("log_scale", self.log_scale).exp()
        return pyro.sample("z", dist.Normal(loc, scale, validate_args=False))


@pytest.fixture
def conjugate() -> Callable[[], tuple[Any, NormalGuide, torch.Tensor]]:
    """The maker of a conjugate program in float64: ``z ~ N(0, 2)``, ``x | z ~ N(z, 0.5)``."""

    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.5, validate_args=False), obs=x)

    x = torch.tensor([0.3, -0.7, 1.2, 0.1, 2.0], dtype=torch.float64)
    return lambda: (model, NormalGuide(), x)


@pytest.fixture
def program(peft_network: Any) -> Program:
    """The maker of a Llama with label tokens or a Bert with a head, and a wide guide."""

    def make(
        name: str, num_data: int = 8, init_scale: float = 0.5
    ) -> tuple[Classifier, LowRankGaussianGuide]:
        model: Classifier
        if name == "llama":
            model = LabelTokenClassifier(peft_network("llama"), LABEL_TOKENS, num_data)
        else:
            model = SequenceClassifier(peft_network(name, "SEQ_CLS"), num_data)
        return model, LowRankGaussianGuide(model, init_scale)

    return make


@pytest.fixture
def site_noise() -> Callable[..., Tensors]:
    """The maker of standard normal noise for each site of a guide."""

    def make(guide: LowRankGaussianGuide, seed: int = 0) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(mean.shape, generator=generator)
            for name, mean in guide.mean().items()
        }

    return make


@pytest.fixture
def peft_logits() -> Callable[..., torch.Tensor]:
    """The oracle of the logits: unmodified PEFT, one text at a time, its padding cut off."""

    def logits(model: Classifier, weights: Tensors, batch: Tensors) -> torch.Tensor:
        net = unbayesianize(copy.deepcopy(model.network), weights).eval()
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        with torch.no_grad():
            outputs = [net(input_ids=ids[mask == 1][None]).logits for ids, mask in rows]
        if isinstance(model, LabelTokenClassifier):
            return torch.cat([output[:, -1, LABEL_TOKENS] for output in outputs])
        return torch.cat(outputs)

    return logits
