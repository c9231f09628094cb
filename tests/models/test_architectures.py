"""Every program over tiny networks of Transformers, against unmodified PEFT with the draw in it.

Each cell equals PEFT to 1e-4, or is refused by name.  docs/networks.md shows which; to write its
tables anew, run ``python -m tests.models.test_architectures``.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from peft import PeftModel
from pyro import poutine
from torch.nn.functional import cross_entropy

from blob_pyro import generate, load_posterior, save_posterior
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import (
    BayesianLora,
    CausalLM,
    LabelTokenClassifier,
    OptionLikelihood,
    SequenceClassifier,
)
from blob_pyro.poutine import flipout
from tests.models.architectures import (
    HEADS,
    TEXTS,
    Tensors,
    Text,
    base,
    batch_of,
    in_peft,
    peft,
    raw,
    texts_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
# What a refusal says, way out included, and what the page makes of it.
REFUSALS = {
    "a": (
        r"gives a padded text other logits .* \(batch_size=1\)|reads padding.* one at a time",
        "It reads padding: batches and prompts of texts of one length, or one at a time.",
    ),
    "b": (
        r"layer '.*' saw .* leave the layer out of target_modules",
        "Some of these layers read rows that all texts share (relative positions). Train with "
        "`flipout=False` (`fine_tune` does so, and warns; prediction then takes one draw a pass), "
        "or leave them out of `target_modules`.",
    ),
    "c": (
        r"can't recompute its layers .* gradient_checkpointing=False",
        "Transformers has no gradient checkpointing for it: smaller batches.",
    ),
    "d": (
        r"can't read two texts at once .* set network.config.pad_token_id",
        "Set `network.config.pad_token_id`.",
    ),
    "e": (
        r"layer '.*' is a LoRA ParamWrapper .* leave it out of target_modules",
        "PEFT adds the product of a router's or an expert's matrices to a weight, where a draw "
        "would have no effect: leave them out of `target_modules`.",
    ),
    "f": (
        r"(is not causal|can't read a text).* AutoModelForCausalLM",
        "It sees the tokens that it is to predict: load a causal language model.",
    ),
    "g": (
        r"has no argument logits_to_keep.*; use ",
        "It computes the logits of all positions: `SequenceClassifier`, or a causal language model "
        "that takes `logits_to_keep`.",
    ),
    "h": (
        r"continues two texts at once in another way than each alone.* use_cache=False",
        "Its cache mixes the rows of a batch, for which `generate(..., use_cache=False)` is the "
        "way, or Transformers gives it other positions when it writes (RoBERTa), for which there "
        "is none.",
    ),
}
IN_ROWS_OF_THEIR_OWN = (
    "= i",
    "Each option gets a row of its own, since the network ignores a mask of packed ones.",
)

Found = tuple[torch.Tensor, torch.Tensor]


def program(name: str) -> tuple[BayesianLora, LowRankGaussianGuide]:
    """A program over the network, and a guide whose draws lie far from its mean."""
    likelihood = SequenceClassifier if name in HEADS else CausalLM
    model = likelihood(peft(name), num_data=4).eval()
    return model, LowRankGaussianGuide(model, init_scale=0.7)


def labelled(name: str, texts: list[Text], **padding: Any) -> Tensors:
    """A batch in which a text is to be learned from its third token on, or has a class."""
    batch = batch_of(texts, **padding)
    learned = (batch["attention_mask"].cumsum(1) > 2) & (batch["attention_mask"] == 1)
    tokens = batch["input_ids"].masked_fill(~learned, -100)
    return {**batch, "labels": torch.arange(len(texts)) % 3 if name in HEADS else tokens}


def answers(model: BayesianLora, weights: Tensors, batch: Tensors) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = poutine.condition(model, weights)(**batch)
    return logits


def said(name: str, net: PeftModel, text: Text) -> torch.Tensor:
    """The logits of a text alone, of its class or of its tokens from the third on."""
    logits = raw(name, net, text)
    return logits if name in HEADS else logits[0, 1:-1]


@torch.no_grad()
def of_peft(name: str, weights: Tensors, texts: list[Text]) -> torch.Tensor:
    net = peft(name, weights)
    return torch.cat([said(name, net, text) for text in texts])


def one_draw(name: str) -> Iterator[Found]:
    model, guide = program(name)
    texts, draws = texts_of(9), guide.draws(2)
    found = [answers(model, draw, labelled(name, texts)) for draw in draws]
    assert (found[0] - found[1]).abs().max() > 1e-2
    for draw, logits in zip(draws, found, strict=True):
        yield logits, of_peft(name, draw, texts)


def several_draws(name: str) -> Iterator[Found]:
    model, guide = program(name)
    texts, draws = texts_of(9, 9), guide.draws(3)
    stacked = {site: torch.stack([draw[site] for draw in draws])[:, None] for site in model.sites}
    found = answers(model, stacked, labelled(name, texts))
    yield found, torch.stack([of_peft(name, draw, texts) for draw in draws])


def in_a_batch(name: str, *lengths: int, side: str = "right") -> Iterator[Found]:
    model, guide = program(name)
    texts, (draw,) = texts_of(*lengths or (9, 9)), guide.draws(1)
    wanted = of_peft(name, draw, texts)
    # Whatever stands where nothing is read must not matter.
    for fill in (1, 33, 2):
        yield answers(model, draw, labelled(name, texts, side=side, fill=fill)), wanted


def padded_left(name: str) -> Iterator[Found]:
    return in_a_batch(name, 21, 3, 7, side="left")


def padded_right(name: str) -> Iterator[Found]:
    return in_a_batch(name, 21, 3, 7, side="right")


def under_flipout(name: str) -> Iterator[Found]:
    model, guide = program(name)
    texts = texts_of(9, 9, 9)
    batch = labelled(name, texts)
    with flipout():
        trace = poutine.trace(guide).get_trace(**batch)
        found = poutine.replay(model, trace)(**batch).detach()
    shown = {site: weights_by_row(model, site, len(texts)) for site in model.sites}
    assert not any(torch.equal(weights[0], weights[1]) for weights in shown.values())
    rows = [{site: weights[row] for site, weights in shown.items()} for row in range(len(texts))]
    yield found, torch.cat([of_peft(name, *each) for each in zip(rows, zip(texts), strict=True)])


@torch.no_grad()
def weights_by_row(model: BayesianLora, site: str, rows: int) -> torch.Tensor:
    """The weight of each row, read off by giving unit vectors in the layer's own order of axes."""
    projection, axis = model.sites[site].projection, model.example_axes()[site]
    if axis is None:  # Text never gets there.
        return torch.randn(rows, *projection.initial_weight.shape)
    units = torch.eye(projection.in_features).expand(rows, -1, -1)
    with projection.use.running():
        return projection(units.transpose(0, axis)).transpose(0, axis).mT


def checkpointing(name: str) -> Iterator[Found]:
    model, guide = program(name)
    model.train()
    model.gradient_checkpointing_enable()
    texts = texts_of(9, 9)
    batch = labelled(name, texts)
    draws = [{s: w.requires_grad_() for s, w in draw.items()} for draw in guide.draws(2)]
    # Both forward, then both backward: each layer is recomputed with the draw that it ran with.
    losses = [negative_log_likelihood(poutine.condition(model, draw), batch) for draw in draws]
    sum(losses).backward()
    nets = [peft(name, draw).train() for draw in draws]
    for net, draw, loss in zip(nets, draws, losses, strict=True):
        targets = [
            torch.tensor(t[2:]) if name in TEXTS else batch["labels"][i : i + 1]
            for i, t in enumerate(texts)
        ]
        wanted = cross_entropy(
            torch.cat([said(name, net, t) for t in texts]), torch.cat(targets), reduction="sum"
        )
        wanted.backward()
        yield loss.detach(), wanted.detach()
        for site, weight in draw.items():
            yield from relative(weight.grad, net.get_parameter(in_peft(site)).grad)
    for site in model.sites:
        found, *wanted_B = (
            net.get_parameter(in_peft(site).replace("lora_A", "lora_B")).grad
            for net in (model.network, *nets)
        )
        yield from relative(found, None if found is None else sum(wanted_B))


def negative_log_likelihood(model: Any, batch: Tensors) -> torch.Tensor:
    trace = poutine.trace(model).get_trace(**batch)
    trace.compute_log_prob()
    return -trace.nodes["labels"]["unscaled_log_prob"].sum()


def relative(found: Any, wanted: Any) -> Iterator[Found]:
    """Gradients in units of the largest; none where text never gets."""
    if wanted is None:
        assert found is None
        return
    scale = wanted.abs().max().clamp(min=1)
    yield found / scale, wanted / scale


def saved_and_loaded(name: str) -> Iterator[Found]:
    model, guide = program(name)
    texts = texts_of(9, 9)
    with tempfile.TemporaryDirectory() as folder:
        save_posterior(folder, model, guide)
        model, again = load_posterior(folder, base(name))
        plain = PeftModel.from_pretrained(base(name), folder).eval()
    draws = []
    for each in (guide, again):
        pyro.set_rng_seed(1)
        draws += each.draws(1)
    yield answers(model, draws[1], labelled(name, texts)), of_peft(name, draws[0], texts)
    with torch.no_grad():
        yield said(name, plain, texts[0]), of_peft(name, guide.mean(), texts[:1])


def writing(name: str, *lengths: int) -> Iterator[Found]:
    model, guide = program(name)
    texts = [text[:-1] for text in texts_of(*lengths or (15, 15))]
    options: Any = {"max_new_tokens": 4, "eos_token_id": None}
    pyro.set_rng_seed(1)
    draws = guide.draws(2)

    def written(**more: Any) -> torch.Tensor:
        return generate(model, guide, **batch_of(texts, fill=33), **options, **more).tokens

    def written_by_peft(weights: Tensors, text: Text) -> torch.Tensor:
        ids = torch.tensor([text])
        net, mask = peft(name, weights), torch.ones_like(ids)
        tokens = net.generate(input_ids=ids, attention_mask=mask, do_sample=False, **options)
        return tokens[:, len(text) :]

    yield written(num_samples=0), torch.cat([written_by_peft(guide.mean(), t) for t in texts])
    each = [written_by_peft(draw, text) for draw, text in product(draws, texts)]
    yield written(num_samples=2, seed=1, per_draw=True).flatten(0, 1), torch.cat(each)
    nets = [peft(name, draw) for draw in draws]
    yield written(num_samples=2, seed=1), torch.tensor([by_hand(name, nets, t) for t in texts])


@torch.no_grad()
def by_hand(name: str, nets: list[PeftModel], text: Text) -> Text:
    """Four tokens after a text, each the likeliest on average, without any cache."""
    text = list(text)
    for _ in range(4):
        average = sum(raw(name, net, text)[0, -1].softmax(-1) for net in nets)
        text.append(int(average.argmax()))
    return text[-4:]


def writing_padded(name: str) -> Iterator[Found]:
    return writing(name, 17, 4)


def label_token(name: str) -> Iterator[Found]:
    tokens = [7, 9, 11]
    model = LabelTokenClassifier(peft(name), tokens, num_data=4).eval()
    (draw,) = LowRankGaussianGuide(model, init_scale=0.7).draws(1)
    texts = texts_of(21, 3, 7, 2)
    net = peft(name, draw)
    with torch.no_grad():
        wanted = torch.stack([raw(name, net, text)[0, -1, tokens] for text in texts])
    for side in ("left", "right"):
        yield answers(model, draw, batch_of(texts, side, 33)), wanted


def options_of_questions(name: str) -> Iterator[Found]:
    model = OptionLikelihood(peft(name), 3, num_data=2).eval()
    (draw,) = LowRankGaussianGuide(model, init_scale=0.7).draws(1)
    net = peft(name, draw)
    # Within windows and beyond them.
    for width in (2, 9, 40):
        asked = [(*texts_of(width), texts_of(2, 7, 3)), (*texts_of(2), texts_of(4, 2))]
        batch = batch_of([[*prompt, *chain(*options)] for prompt, options in asked], "left")
        owners = [[k for k, each in enumerate(options, 1) for _ in each] for _, options in asked]
        batch["option_ids"] = batch_of(owners, "left", 0)["input_ids"]
        found = answers(model, draw, batch)
        for row, (prompt, options) in enumerate(asked):
            for k, option in enumerate(options):
                with torch.no_grad():
                    logits = raw(name, net, prompt + option)[0, len(prompt) - 1 : -1]
                yield found[row, k], -cross_entropy(logits, torch.tensor(option))


FOR_ALL: dict[str, Callable[[str], Iterator[Found]]] = {
    "one draw": one_draw,
    "several at once": several_draws,
    "in a batch": in_a_batch,
    "padded left": padded_left,
    "padded right": padded_right,
    "flipout": under_flipout,
    "checkpointing": checkpointing,
    "saved, loaded": saved_and_loaded,
}
FOR_TEXTS: dict[str, Callable[[str], Iterator[Found]]] = {
    **FOR_ALL,
    "writing": writing,
    "writing, padded": writing_padded,
    "label token": label_token,
    "options": options_of_questions,
}
CELLS = [*product(HEADS, FOR_ALL), *product(TEXTS, FOR_TEXTS)]


def outcome(name: str, column: str) -> str:
    """``=`` where all that was found is what PEFT gives, or the letter of the refusal."""
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for found, wanted in FOR_TEXTS[column](name):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        except ValueError as error:
            for letter, (pattern, _) in REFUSALS.items():
                if re.search(pattern, str(error)):
                    return letter
            raise
    packs = not any("keep packed options apart" in str(warning.message) for warning in caught)
    return "=" if packs else IN_ROWS_OF_THEIR_OWN[0]


def table(names: Any, columns: Any) -> list[str]:
    header = ["", *columns]
    rows = [[name, *(outcome(name, column) for column in columns)] for name in names]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def notes() -> list[str]:
    return [
        *(f"- **{letter}**: {meaning}" for letter, (_, meaning) in REFUSALS.items()),
        f"- **i**: {IN_ROWS_OF_THEIR_OWN[1]}",
    ]


@cache
def on_the_page() -> dict[tuple[str, str], str]:
    """The cells of both tables, by row and column."""
    cells: dict[tuple[str, str], str] = {}
    header: list[str] = []
    for line in PAGE.read_text().splitlines():
        name, *row = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not name:
            header = row
        elif line.startswith("|") and name != "---":
            cells.update({(name, column): cell for column, cell in zip(header, row, strict=True)})
    return cells


@pytest.mark.parametrize(("name", "column"), CELLS)
def test_it_equals_peft_or_is_refused_as_the_page_says(name: str, column: str) -> None:
    wrong = "docs/networks.md says otherwise; see above how to write it anew"
    assert outcome(name, column) == on_the_page().get((name, column)), wrong


def test_the_page_has_no_other_cells() -> None:
    assert list(on_the_page()) == CELLS
    assert "\n".join(notes()) in PAGE.read_text()


if __name__ == "__main__":
    begin, end = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
    before, rest = PAGE.read_text().split(begin)
    after = rest.split(end)[1]
    lines = [*table(HEADS, FOR_ALL), "", *table(TEXTS, FOR_TEXTS), "", *notes(), ""]
    PAGE.write_text(before + begin + "\n".join(["", *lines]) + end + after)
