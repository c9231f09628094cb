"""The training loop: any guide, on whatever device accelerate finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

from accelerate import Accelerator
from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout
from blob_pyro.training.batches import Batch, Collator, training_loader
from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.denormals import flush_denormals
from blob_pyro.training.step_record import StepRecord, record_of
from blob_pyro.training.steps import DecoupledSteps, JointSteps, Steps
from blob_pyro.training.validation import Validation


def fit(
    model: Classifier,
    guide: LoraGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    validation: Dataset | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[StepRecord]:
    """Fit a guide and the model's point estimates to a data set, in place.

    Parameters
    ----------
    model, guide
        The program; afterwards both are on accelerate's device.
    elbo
        The objective, which counts the steps.
    data
        Examples for the collator, with a column ``text``, or ``prompt`` and ``options``, by whose
        length batches are grouped.
    collator
        Makes the model's keywords, ``labels`` among them, from a list of examples.
    config
        Steps, rates and seed.
    validation
        Examples that are not trained on.  Every ``config.validate_every`` steps and after the last,
        their NLL under the posterior mean is computed, and at the end the program is put back to
        where it was lowest (early stopping): :func:`blob_pyro.training.best_step` of the records.
    on_step
        Called with each record, for progress bars and logs.

    Returns
    -------
    list of StepRecord
        One a step.

    Raises
    ------
    ValueError
        If a data set is empty, the validation data have no labels, or there are validation data
        without ``config.validate_every`` or the reverse.
    FloatingPointError
        If loss or gradient is not finite; the parameters are those after the step before.
    """
    if len(data) == 0:
        raise ValueError("the training data are empty; give at least one labelled example")
    check = _validation(model, guide, validation, collator, config)
    flush_denormals()
    accelerator = Accelerator()
    make_steps = JointSteps if config.kl_learning_rate is None else DecoupledSteps
    steps: Steps = make_steps(model, guide, elbo, config, accelerator)
    loader = accelerator.prepare(training_loader(data, collator, config.batch_size, config.seed))
    model.train()
    records: list[StepRecord] = []
    for batch in islice(_epochs(loader), config.num_steps):
        lr = steps.lr
        with flipout() if config.flipout else nullcontext():
            grad_norm = steps.take(batch)
        record = record_of(elbo, len(records), lr, grad_norm)
        if check is not None and check.due(record.step):
            record = replace(record, validation_nll=check.score())
        records.append(record)
        if on_step is not None:
            on_step(record)
    if check is not None:
        check.restore_best()
    return records


def _validation(
    model: Classifier,
    guide: LoraGuide,
    data: Dataset | None,
    collator: Collator,
    config: TrainingConfig,
) -> Validation | None:
    if data is not None:
        return Validation(model, guide, data, collator, config)
    if config.validate_every is not None:
        raise ValueError(
            f"validate_every={config.validate_every} needs data that are not trained on; pass "
            "validation=..."
        )
    return None


def _epochs(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader
