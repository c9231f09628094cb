"""A run: the recipes of a method and of its starts, followed on one network and one data set."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyro
from accelerate import Accelerator
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.networks import pooling_of
from blob_pyro.networks.loading import quiet_peft
from blob_pyro.networks.sharding import place
from blob_pyro.poutine import in_turn, one_run
from blob_pyro.recipe.methods import find_method
from blob_pyro.recipe.network import lora_config, make_likelihood
from blob_pyro.recipe.recipe import Recipe
from blob_pyro.tasks import Task, TextClassificationTask, collator_for
from blob_pyro.tasks.task_data import warn_of_shared_examples, warn_of_untrained_classes
from blob_pyro.training import CheckpointConfig, StepRecord, fit

Program = tuple[Classifier, LoraGuide]


def posterior_from_fits(
    recipe: Recipe,
    starts: Iterable[Program],
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
    **run: Any,
) -> Program:
    """Make a method's posterior from fitted programs, without the fits.

    Parameters
    ----------
    recipe
        The settings.
    starts
        The programs of :meth:`Recipe.start_recipes`, one by one; they are changed in place.
    tokenizer, task
        As in :func:`blob_pyro.recipe.run_recipe`.
    data
        Training examples, or validation examples if the method needs those.
    run
        ``checkpoints``, ``accelerator`` and ``on_step`` of :func:`blob_pyro.training.fit`, for a
        method that takes gradient steps.

    Returns
    -------
    model, guide
        The program that predicts.

    Raises
    ------
    ValueError
        If the method is done when it is trained.
    """
    method, recipe = find_method(recipe.method), recipe.for_data(len(data))
    with in_turn():
        pyro.set_rng_seed(recipe.training.seed)
    programs = map(on_device, starts)
    if method.from_fits is not None:
        return method.from_fits(programs)
    if method.from_fit is None:
        raise ValueError(f"method {recipe.method!r} makes no posterior from a fit; call run_recipe")
    model, guide = next(programs)
    scoring = recipe.scoring_of(model.network.get_base_model())
    collator = collator_for(task, tokenizer, scoring)
    return method.from_fit(model, guide, data, collator, recipe, **run)


def on_device(program: Program) -> Program:
    """Move a program to where accelerate computes."""
    model, guide = program
    place(model, accelerator := Accelerator())
    return model, guide.to(accelerator.device)


@one_run()
def run_recipe(
    recipe: Recipe,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    data: Dataset,
    *,
    validation: Dataset | float | None = None,
    checkpoints: CheckpointConfig | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
    """Add an adapter to a network, make it Bayesian and fit it to a task.

    Parameters
    ----------
    recipe
        The settings.
    base_model
        Causal LM or network with a classification head, without adapter; changed in place.
    tokenizer
        Its tokenizer.
    task
        Texts with a class, or questions with options.
    data
        The task's training examples.
    validation
        Examples that the fit has not seen, for early stopping and for methods that calibrate
        on them, or the share of ``data`` to hold out; None holds out a fifth where some are needed.
    checkpoints
        See :func:`blob_pyro.training.fit`.  A method that starts from several fits saves each
        in a folder of its own inside.
    accelerator, on_step
        See :func:`blob_pyro.training.fit`.

    Returns
    -------
    model, guide, records
        The fitted program and one record a step, those of the fits that it starts from first.

    Raises
    ------
    ValueError
        If a layer, label or number does not fit, or there are checkpoints and no step that they
        could hold; the message says which.
    FloatingPointError
        If training diverges.

    Examples
    --------
    >>> from datasets import DatasetDict
    >>> from tokenizers import Tokenizer, models
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from transformers import PreTrainedTokenizerFast
    >>> from blob_pyro.tasks import TextClassificationTask
    >>> from blob_pyro.training import TrainingConfig
    >>> words = models.WordLevel({"[PAD]": 0, "toner": 1, "password": 2}, unk_token="[PAD]")
    >>> tokenizer = PreTrainedTokenizerFast(
    ...     tokenizer_object=Tokenizer(words), pad_token="[PAD]", model_max_length=8)
    >>> network = BertForSequenceClassification(BertConfig(
    ...     vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=16))
    >>> rows = Dataset.from_dict({"text": ["toner", "password"], "label": [0, 1]})
    >>> task = TextClassificationTask("desk", DatasetDict(train=rows), ("printing", "login"))
    >>> recipe = Recipe(training=TrainingConfig(num_steps=3))
    >>> model, guide, records = run_recipe(recipe, network, tokenizer, task, rows)
    >>> len(records)
    3
    """
    accelerator = accelerator or Accelerator()
    recipe = recipe.for_data(len(data), accelerator.num_processes)
    if checkpoints is not None and recipe.num_steps == 0:
        raise ValueError(
            f"method {recipe.method!r} takes no steps, so there is nothing to resume; leave "
            "checkpoints (--save-every) out"
        )
    if recipe.pooling not in ("auto", pooling_of(base_model)):
        raise ValueError(
            f"pooling={recipe.pooling!r}, but the network is a {type(base_model).__name__}; load "
            "it by its name, or with blob_pyro.networks.load_sequence_classifier(..., pooling=...)"
        )
    share = _VALIDATION_SHARE
    if isinstance(validation, float | int):
        _check_share(validation, recipe)
        share, validation = validation, None
    for examples in (data,) if validation is None else (data, validation):
        task.check(examples)
    run = Run(
        base_model, tokenizer, task, data, validation, checkpoints, accelerator, on_step, share
    )
    return *run.fit(recipe), run.records


def _check_share(share: float, recipe: Recipe) -> None:
    if not 0 < share < 1:
        raise ValueError(f"validation={share} (--validation-fraction) must lie between 0 and 1")
    if not any(each.needs_validation for each in (recipe, *recipe.start_recipes())):
        raise ValueError(
            f"validation={share} (--validation-fraction) holds examples out that the method "
            f"{recipe.method!r} would not use; set validate_every too, or leave it out"
        )


_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Run:
    """What recipes are followed with.

    Parameters
    ----------
    base_model, tokenizer, task, data, validation, checkpoints, accelerator, on_step
        See :func:`blob_pyro.recipe.run_recipe`.
    share
        Of the data, to hold out where validation examples are needed and not given.
    records
        One a step, in the order of the steps, as they are taken.
    """

    base_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    data: Dataset
    validation: Dataset | None
    checkpoints: CheckpointConfig | None
    accelerator: Accelerator
    on_step: Callable[[StepRecord], None] | None
    share: float
    records: list[StepRecord] = field(default_factory=list)

    def fit(self, recipe: Recipe) -> Program:
        """Follow a recipe to the program that predicts."""
        if recipe.needs_validation and self.validation is None:
            return self._with_validation(recipe.training.seed).fit(recipe)
        method = find_method(recipe.method)
        if method.starts_from is not None:
            starts: Iterable[Program] = self._fit_starts(recipe)
        else:
            program = self._train(recipe)
            if method.from_fit is None:
                return program
            starts = [program]
        validation = self.validation if method.needs_validation else None
        examples = self.data if validation is None else validation
        # The steps that are taken from the starts are a run of their own.
        saved = self.checkpoints and self.checkpoints.of_member(len(recipe.start_recipes()))
        run = {"checkpoints": saved, "accelerator": self.accelerator, "on_step": self.on_step}
        return posterior_from_fits(recipe, starts, self.tokenizer, self.task, examples, **run)

    def _with_validation(self, seed: int) -> Self:
        if len(self.data) < 2:
            raise ValueError(
                f"{self.task.name} has {len(self.data)} training example, too few to hold some "
                "out; give more"
            )
        parts = self.data.train_test_split(test_size=self.share, seed=seed)
        return replace(self, data=parts["train"], validation=parts["test"])

    def _fit_starts(self, recipe: Recipe) -> Iterator[Program]:
        """Fit the programs to start from, one after the other in the same network."""
        model: Classifier | None = None
        for number, start in enumerate(recipe.start_recipes()):
            # Not before the next fit is asked for: the last network stays with its adapter.
            base_model = self.base_model if model is None else _without_adapter(model)
            checkpoints = self.checkpoints and self.checkpoints.of_member(number)
            run = replace(self, base_model=base_model, checkpoints=checkpoints)
            model, guide = run.fit(start)
            yield model, guide

    def _train(self, recipe: Recipe) -> Program:
        method = find_method(recipe.method)
        if isinstance(self.task, TextClassificationTask):
            warn_of_untrained_classes(self.data, self.task.class_names)
        if self.validation is not None:
            warn_of_shared_examples(self.data, self.validation, "validation")
        with in_turn():
            # Adapter, guide, noise and batches all follow from the one seed.
            pyro.set_rng_seed(recipe.training.seed)
            model = self._model(recipe)
            guide = method.guide(model, recipe)
        if method.objective == "none":
            return on_device((model, guide))
        examples_per_step = recipe.training.examples_per_step(self.accelerator.num_processes)
        self.records.extend(
            fit(
                model,
                guide,
                recipe.elbo(len(self.data), method.objective, examples_per_step),
                self.data,
                collator_for(self.task, self.tokenizer, recipe.scoring_of(self.base_model)),
                recipe.training.changed(
                    flipout=recipe.training.flipout and method.flipout and _can_flip(model)
                ),
                validation=None if recipe.training.validate_every is None else self.validation,
                checkpoints=self.checkpoints,
                accelerator=self.accelerator,
                on_step=self.on_step,
                steps=method.steps and method.steps(recipe),
            )
        )
        return model, guide

    def _model(self, recipe: Recipe) -> Classifier:
        method = find_method(recipe.method)
        dropout = method.dropout if recipe.dropout is None else recipe.dropout
        config = lora_config(
            self.base_model,
            recipe.rank,
            recipe.alpha,
            recipe.target_modules,
            dropout,
            recipe.latent_layers,
        )
        scoring = recipe.scoring_of(self.base_model)
        with quiet_peft():
            net = get_peft_model(self.base_model, config)
        model = make_likelihood(
            net,
            self.tokenizer,
            self.task,
            scoring,
            len(self.data),
            recipe.prior_scale,
            method.latent,
        )
        model.set_temperature(recipe.logit_temperature)
        return model


def _without_adapter(model: Classifier) -> Any:
    """Give a network back as it was before the fit; PEFT alone would leave the trained head."""
    for name, module, leaf in model.heads.values():
        trained = f".modules_to_save.{model.adapter}."
        if trained in name:
            original = model.network.get_parameter(name.replace(trained, ".original_module."))
            module.get_parameter(leaf).data.copy_(original)
    return model.network.unload()


def _can_flip(model: Classifier) -> bool:
    """Tell whether texts may get weights of their own; warn if not, since training is noisier."""
    try:
        model.example_axes()
    except ValueError as error:
        warnings.warn(f"trained without flipout, which reduces noise: {error}", stacklevel=2)
        return False
    return True
