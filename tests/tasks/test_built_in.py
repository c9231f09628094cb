from __future__ import annotations

from collections import Counter
from itertools import combinations

from blob_pyro.tasks import helpdesk, reviews


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


def test_as_many_reviews_praise_as_complain() -> None:
    splits = reviews().splits
    for split, count in {"train": 64, "validation": 26, "test": 80}.items():
        assert Counter(splits[split]["label"]) == {0: count, 1: count}
    assert Counter(splits["out_of_scope"]["label"]) == {-1: 60}
    texts = [text for data in splits.values() for text in data["text"]]
    assert len({text.lower() for text in texts}) == len(texts) == 400
