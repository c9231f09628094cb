"""What tests share: programs over tiny networks, oracles, and a clean Pyro for every test."""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel
from pyro.poutine.messenger import Messenger
from torch import nn
from transformers import PreTrainedTokenizerFast

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.lora import unbayesianize
from blob_pyro.models import Classifier, LabelTokenClassifier, SequenceClassifier
from blob_pyro.poutine import local_param
from blob_pyro.tasks import helpdesk
from blob_pyro.testing import tiny_base_folder, tiny_batch, tiny_network, tiny_tokenizer

# Tensors are tiny: a second thread costs more than it brings, here and in the scripts run.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

LABEL_TOKENS = [7, 9, 11]
# A program of its own, for torchrun.
collect_ignore = ["training/sharded_run.py"]
# What a tokenizer has to know to answer by letter or word.
ANSWERS = ["Answer: A B C D E true false yes no negative positive"]
ARCHITECTURES = [
    *((name, "CAUSAL_LM") for name in ("llama", "qwen2", "gpt2")),
    *((name, "SEQ_CLS") for name in ("bert", "roberta", "gpt2", "llama", "qwen2")),
]


def make_classifier(
    name: str,
    task_type: str = "CAUSAL_LM",
    num_data: int = 8,
    prior_scale: float = 0.2,
    **options: Any,
) -> Classifier:
    """Make the model over a tiny network that belongs to its task type."""
    net = tiny_network(name, task_type, **options)
    if task_type == "CAUSAL_LM":
        return LabelTokenClassifier(net, LABEL_TOKENS, num_data, prior_scale)
    return SequenceClassifier(net, num_data, prior_scale)


@pytest.fixture(autouse=True)
def _clean_pyro() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached of base models out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words that knows the help desk's and the answers."""
    task = helpdesk()
    return tiny_tokenizer([*task.splits["train"]["text"], *task.class_names, task.prompt, *ANSWERS])


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def base_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """A tiny random causal LM and its tokenizer as a local folder."""
    return tiny_base_folder(tmp_path / "tiny-llama", tokenizer)


def write_questions(data: Path) -> str:
    """Write a folder of OpenBookQA- and ARC-like questions."""
    for place, stem in (("openbookqa/main", "question_stem"), ("ai2_arc/ARC-Easy", "question")):
        folder = data / place
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
    return str(data)


@pytest.fixture(scope="session")
def unchanged_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Base model and questions as above, for tests that share what they make of them."""
    folder = tmp_path_factory.mktemp("unchanged")
    base_model = tiny_base_folder(folder / "tiny-llama", make_tokenizer())
    return base_model, write_questions(folder / "data")


@pytest.fixture
def questions(tmp_path: Path) -> str:
    return write_questions(tmp_path / "data")


@pytest.fixture
def peft_network() -> Callable[..., PeftModel]:
    """Give the maker of tiny PEFT models."""
    return tiny_network


@pytest.fixture
def token_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Give the maker of batches."""
    return tiny_batch


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
        name: str, num_data: int = 8, init_scale: float = 0.25
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
