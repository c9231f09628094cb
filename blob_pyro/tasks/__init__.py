"""Data sets as texts, labels and prompts."""

from blob_pyro.tasks.catalogue import TASKS, find_task, mmlu
from blob_pyro.tasks.collators import Task, collator_for
from blob_pyro.tasks.helpdesk import helpdesk
from blob_pyro.tasks.instruction_collator import InstructionCollator
from blob_pyro.tasks.label_tokens import label_token_ids
from blob_pyro.tasks.multiple_choice import MultipleChoiceTask, Questions
from blob_pyro.tasks.option_collator import OptionCollator
from blob_pyro.tasks.prompt_collator import PromptCollator
from blob_pyro.tasks.question import Question
from blob_pyro.tasks.table import table
from blob_pyro.tasks.text_classification import TextClassificationTask

__all__ = [
    # texts with a class
    "TextClassificationTask",
    "helpdesk",
    "table",
    # questions with options
    "TASKS",
    "MultipleChoiceTask",
    "Question",
    "Questions",
    "find_task",
    "mmlu",
    # from texts to tensors
    "Task",
    "collator_for",
    "InstructionCollator",
    "OptionCollator",
    "PromptCollator",
    "label_token_ids",
]
