"""All methods by name; a new one is a line here."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from blob_pyro.recipe.method import (
    DistilledOptions,
    EnsembleOptions,
    IVONOptions,
    LaplaceOptions,
    Method,
    SWAGOptions,
    TemperatureOptions,
    TFBOptions,
)

# What a method computes with is imported when it does: names and settings cost nothing.
if TYPE_CHECKING:
    from datasets import Dataset
    from torch.utils.data import DataLoader

    from blob_pyro.guides import LoraGuide
    from blob_pyro.models import Classifier
    from blob_pyro.recipe.recipe import Recipe
    from blob_pyro.recipe.run import Program
    from blob_pyro.training import Collator
    from blob_pyro.training.steps import MakeSteps

# Hu et al., "LoRA", ICLR 2022.
MLE = Method("mle", objective="likelihood", is_point=True)

# The baseline of Wang et al., "BLoB", NeurIPS 2024, table 1; TrainingConfig.weight_decay is that of
# ``B``, since the prior regularises ``A``.
MAP = Method("map", objective="elbo", is_point=True)

# PEFT starts ``B`` at zero, so an adapter that is not trained changes nothing.
ZERO_SHOT = Method("zero_shot", is_point=True)


def _probed(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, recipe: Recipe, **_: Any
) -> Program:
    from blob_pyro.models import SequenceClassifier
    from blob_pyro.posthoc import linear_probe

    if not isinstance(model, SequenceClassifier):
        raise ValueError(
            f"a {type(model).__name__} has no head to make a linear probe of; give texts with "
            "classes, and a model by its name or a network of AutoModelForSequenceClassification"
        )
    batches = example_batches(data, collator, recipe)
    linear_probe(model, batches, recipe.training.seed)
    return model, guide


# Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016: the
# adapter stays at zero.
PROBE = Method("probe", from_fit=_probed, needs_head=True, is_point=True)


def _dropout(model: Classifier, recipe: Recipe) -> LoraGuide:
    from blob_pyro.guides import DropoutGuide

    return DropoutGuide(model)


# Gal and Ghahramani, ICML 2016; the rate is that of the baseline of BLoB's paper.
MCD = Method("mcd", guide=_dropout, objective="likelihood", dropout=0.1)


def _gaussian(model: Classifier, recipe: Recipe, width: float = 1.0) -> LoraGuide:
    """Make BLoB's guide; unless the recipe says otherwise it starts at a share of the prior's."""
    from blob_pyro.guides import LowRankGaussianGuide

    return LowRankGaussianGuide(model, recipe.init_scale or width * recipe.prior_scale)


# Wang et al., "BLoB: Bayesian Low-Rank Adaptation by Backpropagation", NeurIPS 2024.
BLOB = Method("blob", guide=_gaussian, objective="elbo", flipout=True)


# Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, on both matrices.  Draws of
# B as wide as the prior make a random network, from which no fit comes back.
BBB = Method(
    "bbb",
    guide=partial(_gaussian, width=1 / 20),
    latent=("A", "B"),
    objective="elbo",
    flipout=True,
)


def _scalabl(model: Classifier, recipe: Recipe) -> LoraGuide:
    from blob_pyro.guides import ScalaBLGuide

    return ScalaBLGuide(model, recipe.start_scale)


# Samplawski et al., "Scalable Bayesian Low-Rank Adaptation of Large Language Models via Stochastic
# Variational Subspace Inference", UAI 2025.
SCALABL = Method("scalabl", guide=_scalabl, objective="elbo")


def _ensemble(programs: Iterable[Program]) -> Program:
    from blob_pyro.posthoc import ensemble

    return ensemble(programs)


# Lakshminarayanan et al., NeurIPS 2017; three members as in Wang et al., "BLoB", NeurIPS 2024.
ENS = Method("ens", starts_from="mle", from_fits=_ensemble, options=EnsembleOptions)


def _laplace(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, recipe: Recipe, **_: Any
) -> Program:
    from blob_pyro.guides import model_at_mean
    from blob_pyro.posthoc import laplace

    model = model_at_mean(model, guide)
    batches = example_batches(data, collator, recipe)
    return model, laplace(model, batches, progress=False, **dict(recipe.method_options))


# Yang et al., "Bayesian Low-rank Adaptation for Large Language Models", ICLR 2024.
LAP = Method("lap", starts_from="map", from_fit=_laplace, options=LaplaceOptions)


def _walk(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    recipe: Recipe,
    **run: Any,
) -> Program:
    from blob_pyro.guides import PointEstimateGuide, model_at_mean
    from blob_pyro.posthoc import swag

    model, options = model_at_mean(model, guide), dict(recipe.method_options)
    config = recipe.training.changed(
        num_steps=options.pop("num_steps"),
        learning_rate=options.pop("learning_rate"),
        max_grad_norm=None,
        flipout=False,
        validate_every=None,
    )
    elbo, point = recipe.elbo(len(data), "elbo"), PointEstimateGuide(model)
    return model, swag(model, point, elbo, data, collator, config, **options, **run)


# Onal et al., "Gaussian Stochastic Weight Averaging for Bayesian Low-Rank Adaptation of Large
# Language Models", 2024, over A and B as there.
SWAG = Method("swag", starts_from="map", from_fit=_walk, options=SWAGOptions)


def _newton(recipe: Recipe) -> MakeSteps:
    from blob_pyro.posthoc.ivon import IVONSteps

    options = dict(recipe.method_options)
    return partial(IVONSteps, lr=options.pop("learning_rate"), **options)


# Cong et al., "Variational Low-Rank Adaptation Using IVON", 2024, over A and B as there; it needs
# the package ivon-opt, which is not installed with this library.  Its start has to be narrower than
# the prior.
IVON = Method(
    "ivon",
    guide=partial(_gaussian, width=1 / 2),
    latent=("A", "B"),
    objective="elbo",
    steps=_newton,
    options=IVONOptions,
)


def _tfb(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, recipe: Recipe, **_: Any
) -> Program:
    from blob_pyro.guides import model_at_mean
    from blob_pyro.posthoc import tfb

    model = model_at_mean(model, guide, latent=("A",))
    batches = example_batches(data, collator, recipe)
    settings = {"seed": recipe.training.seed, **dict(recipe.method_options)}
    return model, tfb(model, batches, progress=False, **settings)


# Shi et al., "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models",
# NeurIPS 2025; the training examples are the anchors.
TFB = Method("tfb", starts_from="map", from_fit=_tfb, options=TFBOptions)


def _calibrated(
    model: Classifier, guide: LoraGuide, data: Dataset, collator: Collator, recipe: Recipe, **_: Any
) -> Program:
    from blob_pyro.posthoc import calibrate

    options: TemperatureOptions = recipe.method_options
    calibrate(
        model,
        guide,
        example_batches(data, collator, recipe),
        options.num_samples,
        recipe.training.seed,
        per_class=options.per_class,
    )
    return model, guide


# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; on top of any method.
TEMPERATURE = Method(
    "temperature",
    starts_from="map",
    from_fit=_calibrated,
    needs_validation=True,
    options=TemperatureOptions,
    is_point=True,
)


def _distilled(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset,
    collator: Collator,
    recipe: Recipe,
    **run: Any,
) -> Program:
    from blob_pyro.posthoc import distill

    options: DistilledOptions = recipe.method_options
    config = recipe.training.changed(num_steps=options.num_steps or recipe.training.num_steps)
    return distill(model, guide, data, collator, config, options.num_samples, progress=False, **run)


# Malinin et al., "Ensemble Distribution Distillation", ICLR 2020, with the mean fitted apart.
DISTILLED = Method(
    "distilled",
    starts_from="blob",
    from_fit=_distilled,
    options=DistilledOptions,
)


def example_batches(data: Dataset, collator: Collator, recipe: Recipe) -> DataLoader[Any]:
    """Make a loader of a data set's batches.

    Parameters
    ----------
    data, collator
        What a method's ``from_fit`` gets.
    recipe
        Its ``training`` gives the batch size.

    Returns
    -------
    DataLoader
        Of keywords of the model; it leaves the global random state alone.
    """
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        data,
        batch_size=recipe.training.batch_size,
        collate_fn=collator,
        generator=torch.Generator().manual_seed(recipe.training.seed),
    )


_ALL = (
    ZERO_SHOT,
    PROBE,
    MLE,
    MAP,
    MCD,
    ENS,
    BBB,
    BLOB,
    LAP,
    TFB,
    TEMPERATURE,
    SCALABL,
    SWAG,
    IVON,
    DISTILLED,
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """Give a method by its name.

    Raises
    ------
    ValueError
        If no method has that name.

    Examples
    --------
    >>> find_method("blob").objective
    'elbo'
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} is unknown; use one of {[*METHODS]}")
    return METHODS[name]
