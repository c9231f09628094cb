"""Temperature scaling of a fitted posterior."""

from __future__ import annotations

from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import calibrate
from blob_pyro.methods.batches import example_batches
from blob_pyro.methods.method import Method, Program, Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


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


def _check(per_class: bool, num_samples: int) -> None:
    if num_samples < 0:
        raise ValueError(f"num_samples={num_samples}: give 0, for the posterior mean, or more")


# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; on top of any method.
TEMPERATURE = Method(
    "temperature",
    starts_from="map",
    finish=_calibrated,
    held_out=True,
    options={"per_class": False, "num_samples": 10},
    check=_check,
)
