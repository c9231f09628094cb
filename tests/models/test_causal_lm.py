from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from pyro.infer import SVI
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import CausalLM
from blob_pyro.poutine import flipout
from tests.models.architectures import batch_of

Batch = dict[str, torch.Tensor]
causal = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
HEADS = [["q_proj", "v_proj"], ["q_proj", "lm_head"]]


def with_text(batch: Batch, prompt: int = 2) -> Batch:
    """Label what follows the first real tokens, with a hole in the middle of the first row."""
    mask = batch["attention_mask"]
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    labels = labels.masked_fill(mask.cumsum(-1) <= prompt, -100)
    labels[0, -3] = -100
    return {**batch, "labels": labels}


def log_likelihoods(program: Callable[..., Any], batch: Batch) -> torch.Tensor:
    trace = poutine.trace(program).get_trace(**batch)
    trace.compute_log_prob()
    return trace.nodes["labels"]["unscaled_log_prob"]


def brute_force(net: Any, batch: Batch) -> torch.Tensor:
    """Each text alone, without its padding, all logits, Hugging Face's shifted loss."""
    sums = []
    columns = (batch[key] for key in ("input_ids", "attention_mask", "labels"))
    for ids, mask, labels in zip(*columns, strict=True):
        real = mask == 1
        with torch.no_grad():
            logits = net(input_ids=ids[real][None]).logits[0, :-1]
        sums.append(-cross_entropy(logits, labels[real][1:], ignore_index=-100, reduction="sum"))
    return torch.stack(sums)


@causal
def test_the_likelihood_is_that_of_each_text_alone(
    name: str, peft_network: Any, padded_batch: Batch
) -> None:
    net = peft_network(name).eval()
    batch = with_text(padded_batch)
    expected = brute_force(net, batch)
    model = CausalLM(net, num_data=8)
    mean = LowRankGaussianGuide(model).mean()
    found = log_likelihoods(poutine.condition(model, mean), batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("targets", HEADS)
def test_the_vocabulary_is_computed_where_there_are_labels(
    targets: list[str], peft_network: Any, padded_batch: Batch
) -> None:
    model, shapes = CausalLM(peft_network("llama", target_modules=targets), 8), []
    head = model.network.get_base_model().get_output_embeddings()
    head = getattr(head, "base_layer", head)
    head.register_forward_hook(lambda module, args, output: shapes.append(output.shape[:-1]))
    batch = with_text(padded_batch)
    counts = (batch["labels"][:, 1:] != -100).sum(1)
    logits = model(**batch)
    assert logits.shape == (int(counts.sum()), 60)
    latent_head = "lm_head" in targets
    assert shapes == [(4, int(counts.max())) if latent_head else (int(counts.sum()),)]


@pytest.mark.parametrize("targets", HEADS)
def test_draws_at_once_are_draws_one_by_one(
    targets: list[str], peft_network: Any, padded_batch: Batch
) -> None:
    model = CausalLM(peft_network("llama", target_modules=targets), 8).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.49)
    batch = with_text(padded_batch)
    draws = [{**guide()} for _ in range(3)]
    one_by_one = [log_likelihoods(poutine.condition(model, draw), batch) for draw in draws]
    together = {site: torch.stack([d[site] for d in draws])[:, None] for site in draws[0]}
    with pyro.plate("draws", 3, dim=-2):
        found = log_likelihoods(poutine.condition(model, together), batch)
    assert torch.stack(one_by_one).std(0).max() > 1e-2
    torch.testing.assert_close(found, torch.stack(one_by_one), atol=1e-4, rtol=1e-5)


def test_an_example_counts_once_however_long(peft_network: Any, token_batch: Any) -> None:
    model = CausalLM(peft_network("llama"), num_data=12)
    batch = with_text(token_batch())
    trace = poutine.trace(model).get_trace(**batch)
    trace.compute_log_prob()
    site = trace.nodes["labels"]
    assert site["fn"].batch_shape == (4,)
    torch.testing.assert_close(site["log_prob_sum"], 3 * site["unscaled_log_prob"].sum())


@pytest.mark.parametrize("targets", HEADS)
def test_svi_learns_a_continuation(targets: list[str], peft_network: Any) -> None:
    model = CausalLM(peft_network("llama", target_modules=targets), num_data=4)
    guide = LowRankGaussianGuide(model)
    ids = torch.randint(5, 60, (4, 6))
    ids[:, 3:] = torch.tensor([7, 11, 9])
    batch = with_text({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, prompt=3)
    elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3, per_datum=True)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    nll = []
    for _ in range(30):
        with flipout():
            svi.step(**batch)
        nll.append(elbo.terms.nll)
    assert nll[-1] < 0.6 * nll[0]


def test_padding_and_prompt_change_nothing_but_by_what_is_read(
    peft_network: Any, token_batch: Any
) -> None:
    model = CausalLM(peft_network("llama").eval(), num_data=8)
    program = poutine.condition(model, LowRankGaussianGuide(model).mean())
    batch = with_text(token_batch())
    expected = log_likelihoods(program, batch)
    unseen = {**batch, "labels": batch["labels"].clone()}
    unseen["labels"][:, 0] = 5  # a first token is never learned
    torch.testing.assert_close(log_likelihoods(program, unseen), expected)
    none = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert torch.equal(log_likelihoods(program, none), torch.zeros(4))


def test_mistakes_are_named(peft_network: Any, token_batch: Any) -> None:
    model = CausalLM(peft_network("llama"), num_data=8)
    batch = with_text(token_batch())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(
        ValueError, match=r"CausalLM needs labels, B x T, -100 .* blob_pyro.generat"
    ):
        model(**inputs)
    with pytest.raises(ValueError, match="contain the padding token 1 but there is no attention_m"):
        model(input_ids=batch["input_ids"], labels=batch["labels"])
    for token in (60, -1):
        labels = batch["labels"].clone()
        labels[1, 3] = token
        with pytest.raises(ValueError, match=f"labels hold {token}, which is not among the 60"):
            model(**inputs, labels=labels)
    with pytest.raises(ValueError, match="BertForSequenceClassification has no language head; l"):
        CausalLM(peft_network("bert", "SEQ_CLS"), num_data=8)


class Functional(LlamaForCausalLM):
    """A network whose head is no module that is called."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        logits = torch.nn.functional.linear(hidden, self.lm_head.weight)
        return type("Output", (), {"logits": logits})()


def test_a_head_that_is_not_called_is_refused(token_batch: Any) -> None:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    model = CausalLM(get_peft_model(Functional(config), lora), num_data=8)
    with pytest.raises(ValueError, match="Functional does not call its language head as a module"):
        model(**with_text(token_batch()))


def test_padding_is_not_learned(peft_network: Any) -> None:
    batch = batch_of([[5, 6, 7, 8], [7, 8]], "left")
    with pytest.raises(ValueError, match="labels hold tokens where attention_mask is 0"):
        CausalLM(peft_network("llama"), 4)(**batch, labels=batch["input_ids"])
