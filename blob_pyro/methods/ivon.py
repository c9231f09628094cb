"""IVON: a mean-field Gaussian over both matrices by variational online Newton steps."""

from __future__ import annotations

from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ivon
from blob_pyro.methods.batches import example_batches
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def _train(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    fitted = ivon(
        model,
        example_batches(model, data, collator, settings, shuffled=True),
        kl_scale=settings.elbo(len(data), "posterior").kl_scale,
        init_scale=settings.init_scale,
        num_steps=settings.training.num_steps,
        num_warmup_steps=settings.training.num_warmup_steps,
        point_learning_rate=settings.training.learning_rate,
        **settings.method_options,
    )
    return model, fitted


# Cong et al., "Variational Low-Rank Adaptation Using IVON", 2024, over A and B as there; it needs
# the package ivon-opt, which is not installed with this library.
IVON = Method(
    "ivon",
    latent=("A", "B"),
    finish=_train,
    steps_in_finish=True,
    options={"learning_rate": 0.1, "beta2": 0.9999, "clip_radius": 0.02},
)
