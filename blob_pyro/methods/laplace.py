"""Laplace-LoRA: the curvature of the likelihood around plain LoRA."""

from __future__ import annotations

from datasets import Dataset

from blob_pyro.guides import LoraGuide, model_at_mean
from blob_pyro.guides.laplace import check_laplace
from blob_pyro.infer import laplace
from blob_pyro.methods.batches import example_batches
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def _laplace(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    options = settings.method_options
    model = model_at_mean(model, guide)
    batches = example_batches(model, data, collator, settings)
    posterior = laplace(
        model,
        batches,
        max_rank=options["max_rank"],
        predictive=options["predictive"],
        progress=False,
    )
    return model, posterior


# Yang et al., "Bayesian Low-rank Adaptation for Large Language Models", ICLR 2024.
LAP = Method(
    "lap",
    starts_from="map",
    finish=_laplace,
    options={"max_rank": 10, "predictive": "linearised"},
    check=check_laplace,
)
