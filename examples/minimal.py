"""BLoB as a Pyro program: PEFT model, guide, SVI, Predictive, ArviZ.

Run ``python examples/minimal.py``; ``--smoke-test`` takes two steps instead of 300.
"""

import argparse

import arviz as az
import pyro
import torch
from peft import LoraConfig, get_peft_model
from pyro.infer import SVI, Predictive
from transformers import BertConfig, BertForSequenceClassification

from blob_pyro.diagnostics import summarize, to_arviz
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.poutine import flipout


def main(num_steps: int) -> None:
    pyro.set_rng_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    net = get_peft_model(BertForSequenceClassification(config), lora)

    # Made-up task: is token 7 in the text?
    input_ids = torch.randint(8, 60, (64, 8))
    input_ids[::2, 3] = 7
    batch = {"input_ids": input_ids, "labels": (input_ids == 7).any(dim=1).long()}

    model = SequenceClassifier(net, num_data=64)
    guide = LowRankGaussianGuide(model, init_scale=0.04)
    elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 5e-3}), loss=elbo)
    for step in range(num_steps):
        with flipout():
            loss = svi.step(**batch)
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.2f} nll {elbo.terms.nll:.2f} kl {elbo.terms.kl:.0f}")

    model.eval()
    few = {"input_ids": input_ids[:4]}
    draws = Predictive(model, guide=guide, num_samples=50, return_sites=("logits",))(**few)
    print("logits:", tuple(draws["logits"].shape), "= draws x texts x classes")

    predictive = posterior_predictive(model, guide, [batch], num_samples=50, progress=False)
    print(summarize(predictive["logits"], predictive["labels"]))
    print(az.loo(to_arviz(predictive)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    main(num_steps=2 if parser.parse_args().smoke_test else 300)
