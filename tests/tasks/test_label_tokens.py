from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.tasks import label_token_ids


def test_each_class_gets_the_first_token_of_its_name(tokenizer: Any) -> None:
    ids = label_token_ids(tokenizer, ["login", "printing"])
    assert [tokenizer.decode([token]) for token in ids] == ["login", "printing"]


def test_names_that_begin_alike_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"'phone' and 'phone number' begin with the same token"):
        label_token_ids(tokenizer, ["phone", "login", "phone number"])
