"""Teach a language model to answer help-desk messages, and colour the tokens it is unsure of.

SmolLM2 learns to name the problem of a message; then it writes about messages that are like those
it knows and about some that are not.  ``--smoke-test`` takes two steps of a tiny random network.
"""

import argparse
from pathlib import Path

import pyro
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import blob_pyro
from blob_pyro.diagnostics import color_tokens, tokens_html
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM
from blob_pyro.networks import SMOLLM2, load_causal_lm, load_tokenizer
from blob_pyro.tasks import InstructionCollator, helpdesk
from blob_pyro.training import TrainingConfig, fit, flush_denormals

PROMPT = "Message: {text}\nProblem:"


def instructions(num_data: int) -> Dataset:
    task = helpdesk()
    rows = task.splits["train"].shuffle(seed=0).select(range(num_data))
    prompts = [PROMPT.format(text=text) for text in rows["text"]]
    responses = [f" {task.class_names[label]}" for label in rows["label"]]
    # Batches are grouped by the length of the column "text".
    return Dataset.from_dict({"prompt": prompts, "response": responses, "text": prompts})


def main(options: argparse.Namespace) -> None:
    pyro.set_rng_seed(options.seed)
    flush_denormals()
    tokenizer = load_tokenizer(SMOLLM2)
    if options.smoke_test:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        network = LlamaForCausalLM(config)
    else:
        network = load_causal_lm(SMOLLM2)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]
    )
    data = instructions(8 if options.smoke_test else 250)
    model = CausalLM(get_peft_model(network, lora), num_data=len(data))
    guide = LowRankGaussianGuide(model, init_scale=0.09)
    elbo = ReweightedTrace_ELBO(32, "uniform", kl_scale=1e-3, per_datum=True)
    training = TrainingConfig(num_steps=options.num_steps, batch_size=4, seed=options.seed)
    records = fit(model, guide, elbo, data, InstructionCollator(tokenizer), training)
    print(f"nll per message: {records[0].nll:.2f} at first, {records[-1].nll:.2f} at the end")

    splits = helpdesk().splits
    texts = [*splits["test"]["text"][:3], *splits["out_of_scope"]["text"][:3]]
    prompts = tokenizer(
        [PROMPT.format(text=text) for text in texts], return_tensors="pt", padding=True
    )
    written = blob_pyro.generate(
        model,
        guide,
        prompts["input_ids"],
        prompts["attention_mask"],
        num_samples=options.num_samples,
        seed=options.seed,
        max_new_tokens=6,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    show(texts, written, tokenizer, options.output_dir)


def show(texts: list[str], written: blob_pyro.infer.Generation, tokenizer, folder: Path) -> None:
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    maximum = float(written.epistemic.max()) or 1.0
    for index, text in enumerate(texts):
        length = int((written.total[index] > 0).sum())
        tokens = [tokenizer.decode([token]) for token in written.tokens[index, :length].tolist()]
        epistemic = written.epistemic[index, :length]
        console.print(text, style="dim", markup=False)
        console.print(color_tokens(tokens, epistemic, maximum=maximum))
        console.print(
            f"first token: total {written.total[index, 0]:.2f} nats, epistemic {epistemic[0]:.2f}\n"
        )
        page = tokens_html(tokens, epistemic, maximum=maximum, title=text)
        (folder / f"text-{index}.html").write_text(page, encoding="utf-8")
    console.print(f"wrote {folder}/text-0.html to text-{len(texts) - 1}.html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--num-steps", type=int, default=120)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("generated"))
    options = parser.parse_args()
    if options.smoke_test:
        options.num_steps, options.num_samples = 2, 2
    main(options)
