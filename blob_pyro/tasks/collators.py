"""The collators of tasks, and the order in which examples of several lengths are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from blob_pyro.tasks.multiple_choice import MultipleChoiceTask
from blob_pyro.tasks.prompt_tokens import prompt_tokens, tokenized
from blob_pyro.tasks.text_classification import TextClassificationTask

Batch = dict[str, torch.Tensor]
Task = TextClassificationTask | MultipleChoiceTask
Scoring = Literal["options", "letters", "head"]

_IGNORED = -100
_TEXTS = ("text", "text_pair", "prompt")


class Collator(ABC):
    """Turns examples into the keywords of a model.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a text; a subclass says what is cut.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> None:
        if tokenizer.pad_token is None:
            raise ValueError(
                "the tokenizer has no padding token; set tokenizer.pad_token = tokenizer.eos_token"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length

    @abstractmethod
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Make a batch of examples."""

    def loader(self, data: Dataset, batch_size: int = 16) -> DataLoader[Any]:
        """Make a loader for prediction, which reads the longest examples first.

        :func:`blob_pyro.infer.posterior_predictive` gives its results in the data set's own order.
        """
        order = LongestFirst.by_tokens(data, self)
        return DataLoader(data, batch_size=batch_size, sampler=order, collate_fn=self)


class LetterCollator(Collator):
    """Turn questions into the batch of :class:`blob_pyro.models.LabelTokenClassifier`.

    A prompt too long for ``max_length`` loses its beginning, since question and options stand at
    its end.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a prompt, options included.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> None:
        super().__init__(tokenizer, max_length)

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``lettered``, ``options`` and ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``), ``num_options`` and ``labels``
            (``B``), all int64.
        """
        texts = [example["lettered"] for example in examples]
        rows = prompt_tokens(self.tokenizer, texts, self.max_length)
        input_ids, mask = padded(rows, self.tokenizer.pad_token_id, on_left=True)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "num_options": torch.tensor([len(example["options"]) for example in examples]),
            "labels": torch.tensor([example["label"] for example in examples]),
        }


class OptionCollator(Collator):
    """Turn questions into the batch of :class:`blob_pyro.models.OptionLikelihood`.

    A prompt too long for ``max_length`` loses its beginning, since the question stands at its end.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a prompt.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``prompt``, ``options`` and ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``), ``option_ids`` (``B x S``, of the last
            S columns) and ``labels`` (``B``), all int64.  Rows are padded on the left.
        """
        texts = [example["prompt"] for example in examples]
        prompts = prompt_tokens(self.tokenizer, texts, self.max_length)
        options = [self._option_tokens(example["options"]) for example in examples]
        owners = [[k for k, tokens in enumerate(row, 1) for _ in tokens] for row in options]
        # Nothing pads between prompt and options: a row is as long as its tokens are many.
        rows = [
            [*prompt, *(token for tokens in texts for token in tokens)]
            for prompt, texts in zip(prompts, options, strict=True)
        ]
        input_ids, mask = padded(rows, self.tokenizer.pad_token_id, on_left=True)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "option_ids": padded(owners, 0, on_left=True)[0],
            "labels": torch.tensor([example["label"] for example in examples]),
        }

    def _option_tokens(self, options: Sequence[str]) -> list[list[int]]:
        texts = [f" {option}" for option in options]
        encoding = tokenized(self.tokenizer, texts, add_special_tokens=False)
        tokens: list[list[int]] = encoding["input_ids"]
        return tokens


class PromptCollator(Collator):
    """Turn texts into a padded Hugging Face batch for a causal LM.

    A text too long for ``max_length`` is cut at its end, never the prompt around it.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    task
        The task that gives the prompt.
    max_length
        Most tokens that a text may take, the prompt's own not counted; each text of a pair.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: TextClassificationTask,
        max_length: int = 256,
    ) -> None:
        super().__init__(tokenizer, max_length)
        self.task = task

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``text``, perhaps ``text_pair`` and, unless it is -1, ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``, int64) and ``labels`` (``B``, int64).
        """
        texts = [self._cut(example["text"]) for example in examples]
        pairs = [self._cut(example.get("text_pair", "")) for example in examples]
        prompts = self.task.prompts(texts, pairs)
        rows = prompt_tokens(self.tokenizer, prompts)
        input_ids, mask = padded(rows, self.tokenizer.pad_token_id)
        return with_labels({"input_ids": input_ids, "attention_mask": mask}, examples)

    def _cut(self, text: str) -> str:
        encoding = tokenized(
            self.tokenizer, text, add_special_tokens=False, return_offsets_mapping=True
        )
        offsets = encoding["offset_mapping"]
        return text if len(offsets) <= self.max_length else text[: offsets[self.max_length - 1][1]]


class TextCollator(Collator):
    """Turn texts into the batch of :class:`blob_pyro.models.SequenceClassifier`.

    The texts stand alone, without a prompt; the tokenizer joins a pair in the architecture's own
    way.  Too long a pair loses the end of its longer text.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a row.  The tokenizer's own limit holds where it is lower.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``text``, perhaps ``text_pair`` and, unless it is -1, ``label``.

        Returns
        -------
        dict
            What the network reads of the texts (``input_ids``, ``attention_mask``, perhaps
            ``token_type_ids``: ``B x T``, int64) and ``labels`` (``B``, int64).
        """
        pairs = "text_pair" in examples[0]
        batch = tokenized(
            self.tokenizer,
            [example["text"] for example in examples],
            [example["text_pair"] for example in examples] if pairs else None,
            padding=True,
            truncation=True,
            max_length=min(self.max_length, self.tokenizer.model_max_length),
            return_tensors="pt",
        )
        return with_labels(dict(batch), examples)


class InstructionCollator(Collator):
    """Turn prompts and responses into the batch of :class:`blob_pyro.models.CausalLM`.

    A response ends with the tokenizer's end of sequence, so that the model learns to stop.  An
    example too long for ``max_length`` loses the beginning of its prompt, then the end of its
    response.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token and an end of sequence.
    max_length
        Most tokens of an example.

    Raises
    ------
    ValueError
        If the tokenizer lacks one of these tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> None:
        super().__init__(tokenizer, max_length)
        if tokenizer.eos_token is None:
            raise ValueError("the tokenizer has no end of sequence; set tokenizer.eos_token")

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``prompt`` and ``response``.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask`` and ``labels`` (-100 but for the response), each
            ``B x T``, int64, padded on the right.
        """
        rows = [self._tokens(example["prompt"], example["response"]) for example in examples]
        pad = self.tokenizer.pad_token_id
        input_ids, mask = padded([[*prompt, *rest] for prompt, rest in rows], pad)
        labels, _ = padded([[*[_IGNORED] * len(prompt), *rest] for prompt, rest in rows], _IGNORED)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def _tokens(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        encoding = tokenized(self.tokenizer, response, add_special_tokens=False)
        after = [*encoding["input_ids"], self.tokenizer.eos_token_id][: self.max_length - 1]
        (before,) = prompt_tokens(self.tokenizer, [prompt], self.max_length - len(after))
        return before, after


def with_labels(batch: Batch, examples: Sequence[dict[str, Any]]) -> Batch:
    """Add the labels to a batch, unless labels are missing or one is -1."""
    labels = [example.get("label", -1) for example in examples]
    return batch if min(labels) < 0 else {**batch, "labels": torch.tensor(labels)}


def padded(
    rows: Sequence[list[int]], value: int, *, on_left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rows equally long.

    Parameters
    ----------
    rows
        Numbers of each row.
    value
        What fills the shorter ones.
    on_left
        Fill them at their beginning.

    Returns
    -------
    rows, mask
        Both ``B x T``, int64; the mask is 1 where a number is real.

    Examples
    --------
    >>> padded([[5, 6], [7]], 0, on_left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    numbers = [torch.tensor(row, dtype=torch.long) for row in rows]
    pad = partial(pad_sequence, batch_first=True, padding_side="left" if on_left else "right")
    return pad(numbers, padding_value=value), pad([torch.ones_like(row) for row in numbers])


def collator_for(
    task: Task, tokenizer: PreTrainedTokenizerBase, scoring: Scoring = "options"
) -> Collator:
    """Make the collator of a task.

    Parameters
    ----------
    task
        Any task.
    tokenizer
        Tokenizer of the network.
    scoring
        How the network answers: ``"options"``, by the likelihood of an option's text or the token
        that names a class; ``"letters"``, by the letter of one; ``"head"``, by a classification
        head, which reads texts only.

    Returns
    -------
    Collator
        Takes the task's examples.

    Raises
    ------
    ValueError
        If a head is to answer questions.

    Examples
    --------
    >>> from blob_pyro.tasks import helpdesk
    >>> from transformers import PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models
    >>> words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    >>> type(collator_for(helpdesk(), tokenizer, "head")).__name__
    'TextCollator'
    """
    if isinstance(task, MultipleChoiceTask):
        if scoring == "head":
            raise ValueError(
                f"{task.name} has questions, which no classification head answers; use a causal LM"
            )
        return LetterCollator(tokenizer) if scoring == "letters" else OptionCollator(tokenizer)
    if scoring == "head":
        return TextCollator(tokenizer)
    lettered = scoring == "letters"
    return PromptCollator(tokenizer, task.lettered() if lettered else task)


def lengths(data: Dataset) -> list[int]:
    """Count the tokens of each example, or the characters that they will be made of.

    Parameters
    ----------
    data
        Examples of any task, or tokenised ones.

    Returns
    -------
    list of int
        One an example.

    Raises
    ------
    ValueError
        If no column holds tokens or a text.

    Examples
    --------
    >>> lengths(Dataset.from_dict({"text": ["no toner", "hi"], "label": [1, 0]}))
    [8, 2]
    """
    if "input_ids" in data.column_names:
        return [len(ids) for ids in data["input_ids"]]
    columns = [data[name] for name in _TEXTS if name in data.column_names]
    if not columns:
        raise ValueError(
            f"the data have the columns {data.column_names}; add one of {['input_ids', *_TEXTS]}"
        )
    if "options" in data.column_names:
        columns.append(["".join(options) for options in data["options"]])
    return [sum(map(len, texts)) for texts in zip(*columns, strict=True)]


class LongestFirst(Sampler[int]):
    """Reads the longest examples first: little padding is needed, and memory runs out early.

    Parameters
    ----------
    counts
        Length of each example.

    Attributes
    ----------
    order
        Index of each example in the order of reading: what
        :func:`blob_pyro.infer.posterior_predictive` puts its results back by.

    Examples
    --------
    >>> LongestFirst([2, 8]).order
    [1, 0]
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.order = sorted(range(len(counts)), key=lambda index: -counts[index])

    @classmethod
    def by_tokens(
        cls, data: Dataset, collator: Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]
    ) -> Self:
        """Count the tokens that a collator makes of each example.

        By characters, formulas would land among texts of half their tokens.
        """
        return cls([collator([example])["input_ids"].shape[1] for example in data])

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
