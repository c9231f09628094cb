"""Maximum likelihood and MAP are what unmodified PEFT makes of the same batches."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from torch.distributions import Normal
from transformers import get_linear_schedule_with_warmup

from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run, run_recipe
from blob_pyro.tasks import TextClassificationTask, label_token_ids
from blob_pyro.training import TrainingConfig

TEXTS = ["toner is out", "locked out", "jam in tray", "my password"]
TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1]})),
    ("login", "printing"),
)
PRIOR = Normal(0.0, 0.2)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What the collator gave, in its order."""
    seen: list[dict[str, torch.Tensor]] = []
    make = run.collator_for

    def kept(*args: Any) -> Any:
        collator = make(*args)

        def collate(examples: Any) -> Any:
            seen.append(collator(examples))
            return seen[-1]

        return collate

    monkeypatch.setattr(run, "collator_for", kept)
    return seen


@pytest.mark.parametrize(
    ("method", "weight_decay"), [("mle", 0.0), ("map", 0.0), ("map", 0.5), ("mle", 0.5)]
)
def test_twenty_steps_are_those_of_peft(
    method: str, weight_decay: float, base_folder: str, batches: Any
) -> None:
    training = TrainingConfig(
        num_steps=20, batch_size=2, learning_rate=1e-2, weight_decay=weight_decay, max_grad_norm=0.5
    )
    recipe = Recipe(method=method, rank=2, kl_scale=0.05, training=training)
    tokenizer: Any = load_tokenizer(base_folder)
    model, guide, records = run_recipe(
        recipe, load_causal_lm(base_folder), tokenizer, TASK, TASK.splits["train"]
    )
    found = guide.mean() | {
        name.replace(".default", ""): parameter.detach()
        for name, parameter in model.network.named_parameters()
        if "lora_B" in name
    }

    pyro.set_rng_seed(0)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_alpha=16, target_modules=["q_proj", "v_proj"]
    )
    net = get_peft_model(load_causal_lm(base_folder), config).train()
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    downs, ups = ([p for name, p in named.items() if f"lora_{m}" in name] for m in "AB")
    start = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.AdamW(
        [{"params": downs, "weight_decay": 0.0}, {"params": ups, "weight_decay": weight_decay}],
        lr=1e-2,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 1, 20)
    tokens = label_token_ids(tokenizer, TASK.class_names)
    for record, batch in zip(records, batches[:20], strict=True):
        logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        # The collator pads on either side: the last real token of each row.
        positions = torch.arange(logits.shape[1]) * batch["attention_mask"]
        logits = logits[torch.arange(len(logits)), positions.argmax(dim=1)][:, list(tokens)]
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        if method == "map":
            loss = loss - 0.05 / 4 * sum(PRIOR.log_prob(down).sum() for down in downs)
        assert record.loss == pytest.approx(float(loss.detach()), abs=2e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 0.5)
        optimizer.step()
        schedule.step()
    for name, parameter in named.items():
        assert (parameter - start[name]).abs().max() > 1e-3
        torch.testing.assert_close(
            found[name.replace(".default", "")], parameter.detach(), atol=1e-5, rtol=0
        )
