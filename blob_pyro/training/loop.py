"""The training loop: any guide, on whatever devices and processes accelerate finds."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace

from accelerate import Accelerator
from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.lora.saveable import check_saveable
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks.sharding import fsdp_plugin
from blob_pyro.poutine import flipout, one_run, taking_turns
from blob_pyro.training.batches import Batch, Collator, process_batches
from blob_pyro.training.checkpoints import CheckpointConfig, Checkpoints
from blob_pyro.training.config import TrainingConfig, flush_denormals
from blob_pyro.training.step_record import StepRecord
from blob_pyro.training.steps import DecoupledSteps, MakeSteps, Steps
from blob_pyro.training.training_state import TrainingState, run_identity, separate_noise
from blob_pyro.training.validation import Validation


@one_run()
def fit(
    model: BayesianLora,
    guide: LoraGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    validation: Dataset | None = None,
    checkpoints: CheckpointConfig | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    steps: MakeSteps | None = None,
) -> list[StepRecord]:
    """Fit a guide and the model's point estimates to a data set, in place.

    A gradient step is on ``config.examples_per_step(accelerator.num_processes)`` examples; the KL
    counts once in it.

    Parameters
    ----------
    model, guide
        The program, the same in every process; afterwards both are on accelerate's device.
    elbo
        The objective, which counts the steps.
    data
        Examples for the collator, with a column ``text``, ``prompt`` and ``options``, or
        ``input_ids``, by whose length batches are grouped.
    collator
        Makes the model's keywords, ``labels`` among them, from a list of examples.
    config
        Steps, rates and seed.
    validation
        Examples that are not trained on.  Every ``config.validate_every`` steps and after the last,
        their NLL under the posterior mean is computed, and at the end the program is put back to
        where it was lowest (early stopping): :func:`blob_pyro.training.best_step` of the records.
    checkpoints
        Where to save the run, so that it can go on after a crash, and whether it goes on; None to
        save nothing.
    accelerator
        For mixed precision, trackers and plugins of your own; None for what ``accelerate launch``
        says, else one process in the weights' own precision.
    on_step
        Called with each record in the main process, for progress bars and logs.
    steps
        Makes the rule by which a step moves the program, a :class:`blob_pyro.training.steps.Steps`,
        from (model, guide, elbo, config, accelerator); None for AdamW, with SGD on the KL if
        ``config.kl_learning_rate`` is given.

    Returns
    -------
    list of StepRecord
        One a step, the same in every process.

    Raises
    ------
    ValueError
        If a data set is empty; if ``validation`` has no labels, comes without
        ``config.validate_every`` or for a model that is not a classifier; if fp16 meets a KL step
        of its own; if no whole checkpoint of this run is there to go on from; or if accelerate was
        told of sharding that this library does not do.
    FloatingPointError
        If loss or gradient is not finite; the parameters are those after the step before.
    OSError
        If a checkpoint cannot be written; those before it are whole.
    TrainingInterruptedError
        If there are checkpoints and SIGTERM or Ctrl-C asked to stop; everything is saved.
    """
    if len(data) == 0:
        raise ValueError("the training data are empty; give at least one labelled example")
    accelerator = accelerator or Accelerator()
    if config.compile and fsdp_plugin(accelerator) is not None:
        raise ValueError("compile and FSDP have not been run together; leave compile out")
    config = config.for_data(len(data), accelerator.num_processes)
    check_saveable(model.network, model.adapter)
    if config.flipout:
        model.example_axes()
    check = _validation(model, guide, validation, collator, config)
    flush_denormals()
    _prepare_network(model, config)
    default = Steps if config.kl_learning_rate is None else DecoupledSteps
    rule = (steps or default)(model, guide, elbo, config, accelerator)
    separate_noise(accelerator)
    model.train()
    run = TrainingState(model, guide, rule, check, accelerator)
    saving: AbstractContextManager[Checkpoints | None] = nullcontext()
    if checkpoints is not None:
        identity = run_identity(model, guide, elbo, data, validation, config, accelerator, rule)
        saving = Checkpoints(checkpoints, run, identity, config.total_steps, accelerator)
    with saving as saved:
        start = len(run.records)
        for batches in process_batches(data, collator, config, accelerator, start):
            record = _step(model, rule, batches, config, len(run.records))
            if check is not None and check.due(record.step):
                record = replace(record, validation_nll=check.score())
            run.records.append(record)
            _report(record, accelerator, on_step)
            if saved is not None:
                saved.after_step()
    if check is not None:
        check.restore_best()
    return run.records


def _step(
    model: BayesianLora,
    steps: Steps,
    batches: Sequence[tuple[Batch, float]],
    config: TrainingConfig,
    step: int,
) -> StepRecord:
    lr, handler = steps.lr, flipout() if config.flipout else nullcontext()
    # No other thread predicts in the middle of a step, or switches dropout off in it.
    with taking_turns(), model.use.running(), handler:
        terms, grad_norm = steps.take(batches)
        # A network that is compiled would go on with them when it is called by itself.
        model.forget()
    loss, nll, kl = map(float, (terms.loss, terms.nll, terms.kl))
    return StepRecord(step, loss, nll, kl, terms.kl_weight, lr, grad_norm)


def _prepare_network(model: BayesianLora, config: TrainingConfig) -> None:
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.compile:
        # The network alone: it holds no Pyro statement.
        model.network.compile()


def _report(
    record: StepRecord, accelerator: Accelerator, on_step: Callable[[StepRecord], None] | None
) -> None:
    known = {name: value for name, value in asdict(record).items() if value is not None}
    accelerator.log(known, step=record.step)
    if on_step is not None and accelerator.is_main_process:
        on_step(record)


def _validation(
    model: BayesianLora,
    guide: LoraGuide,
    data: Dataset | None,
    collator: Collator,
    config: TrainingConfig,
) -> Validation | None:
    if (data is None) != (config.validate_every is None):
        raise ValueError(
            f"validate_every={config.validate_every}, but the validation data are "
            f"{'missing' if data is None else 'given'}; give both, or leave both out"
        )
    if data is None:
        return None
    if not isinstance(model, Classifier):
        raise ValueError(
            f"validation scores classes, and a {type(model).__name__} predicts none; leave "
            "validation and validate_every out"
        )
    return Validation(model, guide, data, collator, config)
