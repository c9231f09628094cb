"""All methods by name; a new one is a line here."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.guides import (
    DropoutGuide,
    LoraGuide,
    LowRankGaussianGuide,
    PointEstimateGuide,
    StochasticSubspaceGuide,
    model_at_mean,
)
from blob_pyro.models import Classifier
from blob_pyro.posthoc import calibrate, ensemble, ivon, laplace, swag, tfb
from blob_pyro.posthoc.laplace.guide import check_laplace
from blob_pyro.posthoc.swag.fit import check_swag
from blob_pyro.posthoc.tfb.fit import check_tfb
from blob_pyro.recipe.method import Method, Program, Settings
from blob_pyro.training import Collator

# Hu et al., "LoRA", ICLR 2022.
MLE = Method("mle", objective="likelihood")

# The baseline of Wang et al., "BLoB", NeurIPS 2024, table 1; TrainingConfig.weight_decay is that of
# ``B``, since the prior regularises ``A``.
MAP = Method("map", objective="posterior")

# PEFT starts ``B`` at zero, so an adapter that is not trained changes nothing.
ZERO_SHOT = Method("zero_shot")


def _dropout(model: Classifier, settings: Settings) -> LoraGuide:
    return DropoutGuide(model)


# Gal and Ghahramani, ICML 2016; the rate is that of the baseline of BLoB's paper.
MCD = Method("mcd", guide=_dropout, objective="likelihood", dropout=0.1)


def _gaussian(model: Classifier, settings: Settings) -> LoraGuide:
    return LowRankGaussianGuide(model, settings.init_scale)


# Wang et al., "BLoB: Bayesian Low-Rank Adaptation by Backpropagation", NeurIPS 2024.
BLOB = Method("blob", guide=_gaussian, objective="posterior", flipout=True)

# Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, on both matrices.
BBB = Method("bbb", guide=_gaussian, latent=("A", "B"), objective="posterior", flipout=True)


def _stochastic_subspace(model: Classifier, settings: Settings) -> LoraGuide:
    return StochasticSubspaceGuide(model, settings.init_scale)


# Samplawski et al., "Scalable Bayesian Low-Rank Adaptation of Large Language Models via Stochastic
# Variational Subspace Inference", UAI 2025.
SCALABL = Method("scalabl", guide=_stochastic_subspace, objective="posterior")


def _check_num_members(num_members: int) -> None:
    if num_members < 1:
        raise ValueError(f"num_members={num_members}: give at least 1")


# Lakshminarayanan et al., NeurIPS 2017; three members as in Wang et al., "BLoB", NeurIPS 2024.
ENS = Method(
    "ens", starts_from="mle", combine=ensemble, options={"num_members": 3}, check=_check_num_members
)


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


def _calibrated(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, settings: Settings
) -> Program:
    options = settings.method_options
    calibrate(
        model,
        guide,
        example_batches(model, data, collator, settings),
        options["num_samples"],
        settings.training.seed,
        per_class=options["per_class"],
    )
    return model, guide


def _check_calibration(per_class: bool, num_samples: int) -> None:
    if num_samples < 0:
        raise ValueError(f"num_samples={num_samples}: give 0, for the posterior mean, or more")


# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; on top of any method.
TEMPERATURE = Method(
    "temperature",
    starts_from="map",
    finish=_calibrated,
    held_out=True,
    options={"per_class": False, "num_samples": 10},
    check=_check_calibration,
)


def example_batches(
    model: Classifier,
    data: Dataset,
    collator: Collator,
    settings: Settings,
    *,
    shuffled: bool = False,
) -> DataLoader[Any]:
    """Make a loader of a data set's batches on the device of a model.

    Parameters
    ----------
    model
        Says where the batches go.
    data, collator
        What a method's ``finish`` gets.
    settings
        Their ``training`` gives the batch size and the seed.
    shuffled
        Anew in each pass, the same for the same seed, as gradient steps want them; else in the
        data's order.

    Returns
    -------
    DataLoader
        Of keywords of the model; it leaves the global random state alone.
    """
    device = next(model.parameters()).device

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in collator(rows).items()}

    return DataLoader(
        data,
        batch_size=settings.training.batch_size,
        shuffle=shuffled,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(settings.training.seed),
    )


_ALL = (ZERO_SHOT, MLE, MAP, MCD, ENS, BBB, BLOB, LAP, TFB, TEMPERATURE, SCALABL, SWAG, IVON)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """Give a method by its name.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> find_method("blob").objective
    'posterior'
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} is unknown; use one of {[*METHODS]}")
    return METHODS[name]
