"""Ask a network of pictures and texts for the colour of a shape, with a posterior and without.

A tiny Idefics3 is trained from scratch on pictures that numpy draws in white light; then plain LoRA
and BLoB learn from a few pictures in coloured light.  ``--smoke-test`` takes a few steps only.
"""

import argparse
from typing import Any

import numpy as np
import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.utils.data import DataLoader
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from blob_pyro.diagnostics import summarize
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.training import TrainingConfig, fit, flush_denormals

SIZE = 16
COLOURS = {"red": (200, 70, 70), "green": (70, 190, 80), "blue": (70, 90, 210)}
MARKS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "colour?", *COLOURS, *MARKS]
ANSWERS = [WORDS.index(colour) for colour in COLOURS]


def draw(colour: tuple[int, int, int], light: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a disc, a square or a cross somewhere on noise, ``SIZE x SIZE x 3``."""
    center, radius = rng.integers(5, SIZE - 5, (2, 1, 1)), rng.integers(3, 6)
    rows, columns = np.abs(np.mgrid[:SIZE, :SIZE] - center)
    shapes = [
        rows**2 + columns**2 <= radius**2,
        np.maximum(rows, columns) <= radius - 1,
        (np.minimum(rows, columns) <= 1) & (np.maximum(rows, columns) <= radius),
    ]
    inside = shapes[rng.integers(3)]
    picture = rng.normal(110, 40, (SIZE, SIZE, 3))
    picture[inside] = rng.normal(colour, 40, (inside.sum(), 3))
    return (picture + light * rng.normal(size=3)).clip(0, 255).astype(np.uint8)


def pictures(num: int, light: float, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(COLOURS), size=num)
    shown = [draw([*COLOURS.values()][label], light, rng).tolist() for label in labels]
    return Dataset.from_dict({"text": ["<image> colour?"] * num, "picture": shown, "label": labels})


class Collator:
    """Has the network's own processor read texts and pictures."""

    def __init__(self, processor: Idefics3Processor) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows."""
        shown = [[np.array(row["picture"], dtype=np.uint8)] for row in rows]
        texts = [row["text"] for row in rows]
        batch = self.processor(text=texts, images=shown, return_tensors="pt", padding=True)
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


def make_network() -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=MARKS,
    )
    shown = Idefics3ImageProcessorPil(
        size={"longest_edge": SIZE}, max_image_size={"longest_edge": SIZE}, do_image_splitting=False
    )
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = Idefics3Config(
        text_config={
            "model_type": "llama",
            "vocab_size": len(WORDS),
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            **sizes,
        },
        vision_config={"image_size": SIZE, "patch_size": 4, "num_hidden_layers": 2, **sizes},
        image_token_id=WORDS.index("<image>"),
    )
    network = Idefics3ForConditionalGeneration(config)
    return network, Idefics3Processor(shown, tokenizer, image_seq_len=4)


def pretrain(network: Any, collator: Collator, num_steps: int) -> None:
    """Train the whole network in white light, each picture seen once."""
    data = pictures(32 * num_steps, light=5, seed=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for batch in DataLoader(data, 32, collate_fn=collator):
        labels = batch.pop("labels")
        logits = network(**batch).logits[:, -1, ANSWERS]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"the base network: loss {loss.item():.2f} in white light")


def fine_tune(method: str, network: Any, collator: Collator, options: Any) -> dict[str, float]:
    pyro.set_rng_seed(options.seed)
    # The language model alone is adapted, so that draws share a pass.
    layers = r".*text_model.*(q_proj|v_proj|down_proj)"
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=layers)
    train = pictures(options.num_train, options.light, seed=2)
    model = LabelTokenClassifier(get_peft_model(network, lora), ANSWERS, num_data=len(train))
    blob = method == "BLoB"
    guide = LowRankGaussianGuide(model, init_scale=0.3) if blob else PointEstimateGuide(model)
    elbo = ReweightedTrace_ELBO(32, "uniform", kl_scale=1e-2 if blob else 0.0, per_datum=True)
    training = TrainingConfig(num_steps=options.num_steps, flipout=blob, seed=options.seed)
    fit(model, guide, elbo, train, collator, training)

    test = pictures(options.num_test, options.light, seed=3)
    loader = DataLoader(test, 16, collate_fn=collator)
    num_samples = options.num_samples if blob else 0
    found = posterior_predictive(model, guide, loader, num_samples, options.seed, progress=False)
    model.network.unload()
    return summarize(found["logits"], found["labels"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--num-steps", type=int, default=200)
    parser.add_argument("--num-train", type=int, default=24)
    parser.add_argument("--light", type=float, default=30, help="standard deviation of its colour")
    parser.add_argument("--num-test", type=int, default=300)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base_steps = 100
    if options.smoke_test:
        options.num_steps, options.num_test, options.num_samples, base_steps = 3, 16, 2, 3
    flush_denormals()
    torch.manual_seed(options.seed)
    base, processor = make_network()
    collator = Collator(processor)
    pretrain(base, collator, base_steps)
    for name in ("plain LoRA", "BLoB"):
        metrics = fine_tune(name, base, collator, options)
        print(f"{name:10s}", {key: round(value, 4) for key, value in metrics.items()})
