"""SWAG: the Gaussian of the weights that SGD visits when it goes on from a point estimate."""

from __future__ import annotations

from datasets import Dataset

from blob_pyro.guides import LoraGuide, PointEstimateGuide, model_at_mean
from blob_pyro.infer import swag
from blob_pyro.infer.swag import check_swag
from blob_pyro.methods.batches import example_batches
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def _walk(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    model = model_at_mean(model, guide)
    batches = example_batches(model, data, collator, settings, shuffled=True)
    elbo = settings.elbo(len(data), "posterior")
    point = PointEstimateGuide(model)
    return model, swag(model, point, elbo, batches, **settings.method_options)


# Onal et al., "Gaussian Stochastic Weight Averaging for Bayesian Low-Rank Adaptation of Large
# Language Models", 2024, over A and B as there.
SWAG = Method(
    "swag",
    starts_from="map",
    finish=_walk,
    steps_in_finish=True,
    options={
        "learning_rate": 0.02,
        "num_steps": 200,
        "momentum": 0.9,
        "collect_every": 4,
        "num_deviations": 20,
    },
    check=check_swag,
)
