"""Data sets as texts, labels and prompts."""

from blob_pyro.tasks.helpdesk import helpdesk
from blob_pyro.tasks.label_tokens import label_token_ids
from blob_pyro.tasks.prompt_collator import PromptCollator
from blob_pyro.tasks.table import table
from blob_pyro.tasks.text_classification import TextClassificationTask

__all__ = [
    # tasks
    "TextClassificationTask",
    "helpdesk",
    "table",
    # from texts to tensors
    "PromptCollator",
    "label_token_ids",
]
