"""Small programs, guides whose noise is given, and the z-test."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import nn

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.lora import unbayesianize
from blob_pyro.models import Classifier, LabelTokenClassifier, SequenceClassifier
from blob_pyro.poutine import local_param

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
def plain_logits() -> Callable[..., torch.Tensor]:
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
