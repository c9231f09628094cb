"""Draw every plot of ``blob_pyro.diagnostics`` for one small fit.

The texts are made up: a text of class c has some tokens of the c-th tenth of the vocabulary among
any others, so that no answer is certain.  A random BERT of width 32 learns it from 100 texts, once
as plain LoRA and once as BLoB; texts from elsewhere are made of tokens that it never saw.  The
pictures show what the plots show, not how good a method is.

Writes one picture a plot into ``--output``.  ``--smoke-test`` takes two steps and three draws.
"""

import argparse
from pathlib import Path
from typing import Any

import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from blob_pyro.diagnostics import (
    mutual_information,
    plot_decomposition,
    plot_draws,
    plot_loss,
    plot_reliability,
    plot_risk_coverage,
    plot_scale_map,
    plot_uncertainty,
    summarize,
)
from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.training import StepRecord, TrainingConfig, fit

NUM_CLASSES, TOPIC, LENGTH = 4, 10, 16
BATCH_SIZE = 10
CLASS_NAMES = ["login", "network", "printing", "phone"]


def make_texts(num_texts: int, seed: int) -> Dataset:
    """Make texts of which a third of the tokens are of their class's topic."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num_texts,), generator=generator)
    size = (num_texts, LENGTH)
    anything = torch.randint(NUM_CLASSES * TOPIC, size, generator=generator)
    topical = TOPIC * labels[:, None] + torch.randint(TOPIC, size, generator=generator)
    tokens = torch.where(torch.rand(size, generator=generator) < 0.33, topical, anything)
    columns = {"text": [str(row) for row in tokens.tolist()], "tokens": tokens.tolist()}
    return Dataset.from_dict({**columns, "labels": labels.tolist()})


def make_strangers(num_texts: int) -> Dataset:
    """Make texts of tokens that stand in no other text."""
    tokens = NUM_CLASSES * TOPIC + torch.randint(TOPIC, (num_texts, LENGTH))
    return Dataset.from_dict({"tokens": tokens.tolist()})


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch."""
    ids = torch.tensor([row["tokens"] for row in rows])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def fitted(
    guide_class: type[LoraGuide], data: Dataset, num_steps: int, **options: Any
) -> tuple[SequenceClassifier, LoraGuide, list[StepRecord]]:
    """Fit a guide from the same start with the same batches."""
    pyro.set_rng_seed(0)
    config = BertConfig(
        vocab_size=(NUM_CLASSES + 1) * TOPIC,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=NUM_CLASSES,
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "key", "value"])
    net = get_peft_model(BertForSequenceClassification(config), lora)
    model = SequenceClassifier(net, num_data=len(data))
    guide = guide_class(model, **options)
    is_blob = guide_class is LowRankGaussianGuide
    elbo = ReweightedTrace_ELBO(
        len(data) // BATCH_SIZE, "uniform", kl_scale=2e-2 if is_blob else 0.0, per_datum=True
    )
    settings = TrainingConfig(
        num_steps=num_steps, batch_size=BATCH_SIZE, learning_rate=1e-2, flipout=is_blob
    )
    return model, guide, fit(model, guide, elbo, data, collate, settings)


def main() -> None:
    """Fit both and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("diagnostic_plots"))
    parser.add_argument("--smoke-test", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    num_steps, num_draws = (2, 3) if args.smoke_test else (300, 50)

    train, test = make_texts(100, seed=0), make_texts(300, seed=1)
    plain_model, plain_guide, _ = fitted(PointEstimateGuide, train, num_steps)
    model, guide, records = fitted(LowRankGaussianGuide, train, num_steps, init_scale=0.09)

    def predict(program: tuple[Any, Any], data: Dataset, num_samples: int) -> Any:
        batches = [collate(list(data))]
        return posterior_predictive(*program, batches, num_samples, seed=0, progress=False)

    plain = predict((plain_model, plain_guide), test, 0)
    blob = predict((model, guide), test, num_draws)
    strange = predict((model, guide), make_strangers(150), num_draws)
    labels = blob["labels"]
    for name, predictive in (("plain LoRA", plain), ("BLoB", blob)):
        metrics = summarize(predictive["logits"], labels)
        print(name, {metric: round(value, 3) for metric, value in metrics.items()})

    both = {}
    for name, plot in (("reliability", plot_reliability), ("risk_coverage", plot_risk_coverage)):
        ax = plot(plain["logits"], labels, label="plain LoRA")
        both[name] = plot(blob["logits"], labels, label="BLoB", ax=ax)
    example = int(mutual_information(blob["logits"]).argmax())
    pictures = {
        **both,
        "uncertainty": plot_uncertainty(blob["logits"], strange["logits"]),
        "decomposition": plot_decomposition(blob["logits"], labels),
        "scale_map": plot_scale_map(guide.scale(), prior_scale=0.2),
        "loss": plot_loss(records),
        "draws": plot_draws(
            blob["logits"], example, label=int(labels[example]), class_names=CLASS_NAMES
        ),
    }
    for name, ax in pictures.items():
        path = args.output / f"plot_{name}.png"
        ax.figure.savefig(path, dpi=80)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
