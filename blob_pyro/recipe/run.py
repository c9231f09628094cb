"""A run: the recipes of a method and of its starts, followed on one network and one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import pyro
from accelerate import Accelerator
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.likelihood import lora_config, make_likelihood
from blob_pyro.methods import Program, find_method
from blob_pyro.models import Classifier
from blob_pyro.recipe.finishing import finish, on_device
from blob_pyro.recipe.recipe import Recipe
from blob_pyro.tasks import Task, collator_for
from blob_pyro.training import CheckpointConfig, StepRecord, fit

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Run:
    """What recipes are followed with.

    Parameters
    ----------
    base_model, tokenizer, task, data, validation, checkpoints, accelerator, on_step
        See :func:`blob_pyro.recipe.fine_tune`.
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
    records: list[StepRecord] = field(default_factory=list)

    def fit(self, recipe: Recipe) -> Program:
        """Follow a recipe to the program that predicts."""
        if recipe.takes_validation and self.validation is None:
            return self._holding_out(recipe.training.seed).fit(recipe)
        method = find_method(recipe.method)
        if method.starts_from is not None:
            starts: Iterable[Program] = self._fit_starts(recipe)
        else:
            program = self._train(recipe)
            if method.finish is None:
                return program
            starts = [program]
        held_out = self.validation if method.held_out else None
        examples = self.data if held_out is None else held_out
        return finish(recipe, starts, self.tokenizer, self.task, examples)

    def _holding_out(self, seed: int) -> Run:
        parts = self.data.train_test_split(test_size=_HELD_OUT, seed=seed)
        return replace(self, data=parts["train"], validation=parts["test"])

    def _fit_starts(self, recipe: Recipe) -> Iterator[Program]:
        """Fit the programs to start from, one after the other in the same network."""
        model: Classifier | None = None
        for number, start in enumerate(recipe.start_recipes()):
            # Not before the next fit is asked for: the last network stays with its adapter.
            base_model = self.base_model if model is None else model.network.unload()
            checkpoints = self.checkpoints and self.checkpoints.of_member(number)
            run = replace(self, base_model=base_model, checkpoints=checkpoints)
            model, guide = run.fit(start)
            yield model, guide

    def _train(self, recipe: Recipe) -> Program:
        method = find_method(recipe.method)
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
                replace(recipe.training, flipout=recipe.training.flipout and method.flipout),
                validation=None if recipe.training.validate_every is None else self.validation,
                checkpoints=self.checkpoints,
                accelerator=self.accelerator,
                on_step=self.on_step,
            )
        )
        return model, guide

    def _model(self, recipe: Recipe) -> Classifier:
        method = find_method(recipe.method)
        dropout = method.dropout if recipe.dropout is None else recipe.dropout
        config = lora_config(
            self.base_model, recipe.rank, recipe.alpha, recipe.target_modules, dropout
        )
        scoring = recipe.scoring_of(self.base_model)
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
        model.set_temperature(recipe.temperature)
        return model
