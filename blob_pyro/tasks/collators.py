"""The collator that belongs to a task and to the way in which a network answers."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.collator import Collator
from blob_pyro.tasks.letter_collator import LetterCollator
from blob_pyro.tasks.multiple_choice import MultipleChoiceTask
from blob_pyro.tasks.option_collator import OptionCollator
from blob_pyro.tasks.prompt_collator import PromptCollator
from blob_pyro.tasks.text_classification import TextClassificationTask
from blob_pyro.tasks.text_collator import TextCollator

Task = TextClassificationTask | MultipleChoiceTask
Scoring = Literal["options", "letters", "head"]


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
                f"{task.name} has questions with options, which a classification head cannot "
                "answer; use a causal LM"
            )
        return LetterCollator(tokenizer) if scoring == "letters" else OptionCollator(tokenizer)
    if scoring == "head":
        return TextCollator(tokenizer)
    lettered = scoring == "letters"
    return PromptCollator(tokenizer, task.lettered() if lettered else task)
