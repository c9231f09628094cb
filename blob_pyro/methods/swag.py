"""SWAG: the Gaussian of the weights that SGD visits when it goes on from a point estimate."""

from __future__ import annotations

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.guides import LoraGuide, PointEstimateGuide, model_at_mean
from blob_pyro.infer import swag
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def _walk(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    model = model_at_mean(model, guide)
    device = next(model.parameters()).device
    loader = DataLoader(
        data,
        batch_size=settings.training.batch_size,
        shuffle=True,
        collate_fn=lambda rows: {name: value.to(device) for name, value in collator(rows).items()},
        generator=torch.Generator().manual_seed(settings.training.seed),
    )
    elbo = settings.elbo(len(data), "posterior")
    point = PointEstimateGuide(model)
    return model, swag(model, point, elbo, loader, **settings.method_options)


# Onal et al., "Gaussian Stochastic Weight Averaging for Bayesian Low-Rank Adaptation of Large
# Language Models", 2024, over A and B as there.
SWAG = Method(
    "swag",
    starts_from="map",
    finish=_walk,
    options={
        "learning_rate": 0.02,
        "num_steps": 200,
        "momentum": 0.9,
        "collect_every": 4,
        "num_deviations": 20,
    },
)
