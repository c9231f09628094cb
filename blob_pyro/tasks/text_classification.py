"""What a text-classification task consists of."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import DatasetDict


@dataclass(frozen=True)
class TextClassificationTask:
    r"""Texts, labels and the names of the classes.

    Parameters
    ----------
    name
        Name of the task, recorded in saved posteriors.
    splits
        Data sets by split with the columns ``text`` (string) and ``label`` (class index, int64;
        -1 where no class is right, as in ``out_of_scope``).
    class_names
        Names in the order of the class indices.
    prompt
        Prompt of a causal LM, with the field ``{text}``; the model's next token is the class.

    Raises
    ------
    ValueError
        If there are fewer than two classes or the prompt has no ``{text}``.

    Examples
    --------
    >>> from datasets import Dataset
    >>> train = Dataset.from_dict({"text": ["no toner"], "label": [1]})
    >>> task = TextClassificationTask("tickets", DatasetDict(train=train), ("login", "printing"))
    >>> task.prompts(["no toner"])
    ['no toner\n\nThis message is about']
    """

    name: str
    splits: DatasetDict
    class_names: tuple[str, ...]
    prompt: str = "{text}\n\nThis message is about"

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(
                f"task {self.name!r} has the classes {list(self.class_names)}; classification "
                "needs at least two different labels"
            )
        if "{text}" not in self.prompt:
            raise ValueError(
                f"prompt {self.prompt!r} has no field {{text}}; put it where the message belongs"
            )

    def prompts(self, texts: list[str]) -> list[str]:
        """Fill the prompt with each text (which may itself hold braces)."""
        return [self.prompt.replace("{text}", text) for text in texts]
