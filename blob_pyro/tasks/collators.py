"""The collator that belongs to a task."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.multiple_choice import MultipleChoiceTask
from blob_pyro.tasks.option_collator import OptionCollator
from blob_pyro.tasks.prompt_collator import PromptCollator
from blob_pyro.tasks.text_classification import TextClassificationTask

Task = TextClassificationTask | MultipleChoiceTask


def collator_for(task: Task, tokenizer: PreTrainedTokenizerBase) -> PromptCollator | OptionCollator:
    """Make the collator of a task: texts are classified, questions have their options scored.

    Parameters
    ----------
    task
        Any task.
    tokenizer
        Tokenizer of the network.

    Returns
    -------
    PromptCollator or OptionCollator
        Takes the task's examples.
    """
    if isinstance(task, MultipleChoiceTask):
        return OptionCollator(tokenizer)
    return PromptCollator(tokenizer, task)
