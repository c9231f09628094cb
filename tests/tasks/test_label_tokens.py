from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from blob_pyro.tasks import label_token_ids


def test_each_class_gets_the_token_of_its_name(tokenizer: Any) -> None:
    ids = label_token_ids(tokenizer, ["login", "printing"])
    assert [tokenizer.decode([token]) for token in ids] == ["login", "printing"]


def test_a_label_is_read_as_it_follows_a_prompt() -> None:
    """A tokenizer such as Llama-2's marks the beginning of every text like a space."""
    pieces = ["<unk>", "▁Answer", ":", "▁A", "▁", "A", "▁B"]
    words = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(":", "isolated"),
        ]
    )
    words.decoder = decoders.Fuse()
    words.add_tokens([AddedToken("<pad>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert tokenizer.tokenize(" A") == ["▁", "▁A"]
    assert label_token_ids(tokenizer, ["A", "B"]) == [3, 6]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["login", "phone number"], r"the label 'phone number' is 2 tokens \(\['phone', '"),
        (["login", "login"], "'login' and 'login' are the same token 'login'"),
        (["login", "zzz"], "the tokenizer does not know the label 'zzz'"),
        (["login", ""], r"the label '' is 0 tokens"),
    ],
)
def test_labels_that_are_not_one_token_each_are_refused(
    labels: list[str], message: str, tokenizer: Any
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        label_token_ids(tokenizer, labels)
    assert "answer by letter" in str(error.value)
    assert "--set scoring=letters" in str(error.value)
