"""Several threads that predict at once, against the answers of one."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyro
import pytest
import torch
from datasets import Dataset
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine import runtime

from blob_pyro.guides import LaplaceGuide
from blob_pyro.infer import (
    PosteriorFunctions,
    ReweightedTrace_ELBO,
    generate,
    posterior_predictive,
)
from blob_pyro.posthoc import ensemble
from blob_pyro.training import TrainingConfig, fit

THREADS, REQUESTS = 8, 50
Batch = dict[str, torch.Tensor]


def requests(token_batch: Any) -> list[Batch]:
    """Batches of different texts and sizes, without labels."""
    batches = [token_batch(rows=1 + seed % 3, seed=seed) for seed in range(5)]
    return [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]


def at_once(answer: Callable[[int], Any], number: int) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(answer, range(number)))


@pytest.mark.parametrize(("parallel", "number"), [(False, THREADS * REQUESTS), (True, 160)])
def test_posterior_functions_answer_as_one_after_the_other(
    parallel: bool, number: int, program: Any, token_batch: Any
) -> None:
    model, guide = program("bert")
    batches = requests(token_batch)
    functions = PosteriorFunctions(model, guide, batches[0], 3, seed=0, parallel=parallel)
    expected = [functions(batch) for batch in batches]
    assert expected[0].std(dim=0).min() > 1e-3
    for index, found in enumerate(at_once(lambda n: functions(batches[n % 5]), number)):
        assert torch.equal(found, expected[index % 5])
    assert runtime._PYRO_STACK == []
    assert model.training
    assert torch.equal(functions(batches[1]), expected[1])


def test_functions_of_an_older_temperature_lend_it_to_no_other_thread(
    program: Any, token_batch: Any
) -> None:
    model, guide = program("bert")
    (batch, *_) = requests(token_batch)
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    model.set_temperature(5.0)
    expected = PosteriorFunctions(model, guide, batch, 2, seed=0)(batch)
    made: list[Any] = []

    def make(*_: Any) -> None:
        if not made:
            made.append(pool.submit(PosteriorFunctions, model, guide, batch, 2, seed=0))
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        with model.network.register_forward_hook(make):
            functions(batch)
        assert torch.equal(made[0].result()(batch), expected)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "ensemble"])
def test_draws_of_every_thread_are_those_of_its_seed(
    kind: str, program: Any, token_batch: Any
) -> None:
    model, guide = program("llama")
    if kind == "laplace":
        guide = LaplaceGuide(model, prior_precision=4.0)
    if kind == "ensemble":
        model, guide = ensemble([(model, guide)])
    batches = requests(token_batch)

    def predict(number: int) -> torch.Tensor:
        seed = number % 4
        made = posterior_predictive(model, guide, [batches[seed]], 3, seed=seed, progress=False)
        return made["logits"]

    expected = [predict(seed) for seed in range(4)]
    state = torch.get_rng_state()
    for number, found in enumerate(at_once(predict, 160)):
        torch.testing.assert_close(found, expected[number % 4], atol=1e-6, rtol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_without_a_seed_get_different_draws(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    (batch, *_) = requests(token_batch)
    found = at_once(lambda _: PosteriorFunctions(model, guide, batch, 1)(batch), 64)
    assert len({tuple(logits.flatten().tolist()) for logits in found}) == 64


def test_texts_of_every_thread_are_those_of_its_seed(program: Any) -> None:
    model, guide = program("llama")
    prompt = torch.tensor([[5, 6, 7]])

    def write(number: int) -> list[int]:
        options: Any = {"max_new_tokens": 4, "do_sample": True, "eos_token_id": None}
        text = generate(model, guide, prompt, num_samples=2, seed=number % 3, **options)
        return list(text.tokens[0].tolist())

    expected = [write(seed) for seed in range(3)]
    for number, found in enumerate(at_once(write, 48)):
        assert found == expected[number % 3]


def test_prediction_beside_training_is_that_of_some_step(program: Any, token_batch: Any) -> None:
    model, guide = program("llama")
    (batch, *_) = requests(token_batch)
    data = Dataset.from_list([{"input_ids": [5 + n, 6, 7], "labels": n % 3} for n in range(8)])

    def collate(rows: list[dict[str, Any]]) -> Batch:
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    config = TrainingConfig(num_steps=30, batch_size=4, learning_rate=0.01)
    elbo = ReweightedTrace_ELBO(1, kl_scale=1e-3, per_datum=True)
    errors: list[BaseException] = []

    def train() -> None:
        try:
            fit(model, guide, elbo, data, collate, config)
        except BaseException as error:
            errors.append(error)

    trainer = threading.Thread(target=train)
    trainer.start()
    answers = []
    while trainer.is_alive():
        answers.append(posterior_predictive(model, guide, [batch], 2, seed=0, progress=False))
        time.sleep(0.001)
    trainer.join()
    assert errors == []
    assert len(answers) > 1
    assert runtime._PYRO_STACK == []
    assert model.training


def test_drawing_under_foreign_handlers_is_refused(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    (batch, *_) = requests(token_batch)
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    expected = functions(batch)
    with poutine.trace(), pytest.raises(RuntimeError, match=r"holds the handlers .'TraceM"):
        PosteriorFunctions(model, guide, batch, 2, seed=0)
    # Fixed draws need no statement, so no handler can change them.
    with poutine.scale(scale=2.0), pyro.plate("other", 7):
        assert torch.equal(functions(batch), expected)


def test_training_by_hand_still_works_afterwards(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    (batch, *_) = requests(token_batch)
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    at_once(lambda _: functions(batch), 32)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), ReweightedTrace_ELBO(1))
    losses = [svi.step(**token_batch()) for _ in range(3)]
    assert all(map(math.isfinite, losses))
