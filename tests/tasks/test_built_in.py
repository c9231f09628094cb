from __future__ import annotations

from collections import Counter
from itertools import combinations

from blob_pyro.tasks import helpdesk


def words(text: str) -> list[str]:
    return text.lower().split()


def test_every_intent_has_25_10_and_20_messages() -> None:
    task = helpdesk()
    assert len(task.class_names) == 10
    for split, count in {"train": 25, "validation": 10, "test": 20}.items():
        assert Counter(task.splits[split]["label"]) == dict.fromkeys(range(10), count)
    assert set(task.splits["out_of_scope"]["label"]) == {-1}


def test_no_message_repeats_or_paraphrases_another_by_template() -> None:
    texts = [text for data in helpdesk().splits.values() for text in data["text"]]
    assert len({text.lower() for text in texts}) == len(texts) == 650
    grams = [set(zip(words(t), words(t)[1:], words(t)[2:], strict=False)) for t in texts]
    closest = max(len(a & b) / len(a | b) for a, b in combinations(grams, 2) if a and b)
    assert closest < 0.3
