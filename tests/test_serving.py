"""The page on serving: its endpoint under two clients at once, and its draws under PEFT alone."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import blob_pyro
from blob_pyro.recipe import Posterior
from blob_pyro.testing import ENCODER

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
TEXTS = ["toner is out", "locked out of email", "paper jam", "my login"]
LABELS = ["printing", "login"] * 2


@pytest.fixture
def posterior(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> Posterior:
    """A posterior over a tiny encoder, saved in the working folder."""
    monkeypatch.chdir(tmp_path)
    sizes = {**ENCODER, "vocab_size": len(tokenizer), "num_labels": 2}
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    settings: dict[str, Any] = {"num_steps": 3, "learning_rate": 0.05, "progress": False}
    fitted = blob_pyro.fine_tune(TEXTS, "tiny", LABELS, **settings)
    fitted.save("posterior")
    return fitted


def run(*blocks: int) -> dict[str, Any]:
    """Run blocks of the page, and give what they define."""
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        code = BLOCKS[block].replace('"distilbert-base-uncased"', '"tiny"')
        exec(compile(code, PAGE.name, "exec", dont_inherit=True), scope)
    return scope


def test_two_clients_at_once_get_the_answers_of_one(posterior: Posterior) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    testclient = pytest.importorskip("fastapi.testclient", exc_type=(ImportError, RuntimeError))
    client = testclient.TestClient(run(0)["app"])

    def ask(texts: list[str]) -> list[dict[str, Any]]:
        response = client.post("/classify", json={"texts": texts, "num_samples": 3})
        assert response.status_code == 200, response.text
        return response.json()  # type: ignore[no-any-return]

    requests = [TEXTS, TEXTS[:1], TEXTS[1:3]] * 6
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, requests))
    for texts, answers in zip(requests, found, strict=True):
        wanted = posterior.predictive(texts, num_samples=3, progress=False)
        assert [answer["label"] for answer in answers] == wanted.classes.tolist()
        np.testing.assert_allclose(
            [answer["probability"] for answer in answers],
            wanted.probabilities.max(axis=1),
            atol=1e-5,
        )
    assert client.post("/classify", json={"texts": []}).status_code == 422


def test_exported_draws_under_peft_give_the_averaged_probabilities(posterior: Posterior) -> None:
    scope = run(1, 2, 3)
    wanted = posterior.predict_proba(scope["texts"], num_samples=10, seed=0)
    for way in ("switched", "at_once"):
        np.testing.assert_allclose(scope[way].numpy(), wanted, atol=1e-5)
    # It is not the mean's answer, nor the average of logits.
    assert np.abs(wanted - posterior.predict_proba(scope["texts"], num_samples=0)).max() > 1e-4
    assert torch.stack(scope["probabilities"]).std(0).max() > 1e-4
