"""Training-free Bayesianisation of plain LoRA."""

from __future__ import annotations

from datasets import Dataset

from blob_pyro.guides import LoraGuide, model_at_mean
from blob_pyro.infer import tfb
from blob_pyro.infer.tfb import check_tfb
from blob_pyro.methods.batches import example_batches
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def _tfb(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    options = settings.method_options
    model = model_at_mean(model, guide, latent=("A",))
    batches = example_batches(model, data, collator, settings)
    posterior = tfb(
        model,
        batches,
        tolerance=options["tolerance"],
        num_samples=options["num_samples"],
        seed=settings.training.seed,
        progress=False,
    )
    return model, posterior


# Shi et al., "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models",
# NeurIPS 2025; the training examples are the anchors.
TFB = Method(
    "tfb",
    starts_from="map",
    finish=_tfb,
    options={"tolerance": 0.01, "num_samples": 10},
    check=check_tfb,
)
