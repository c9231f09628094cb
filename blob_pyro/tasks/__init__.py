"""Data sets as texts, labels and prompts."""

from blob_pyro.tasks.catalogue import TASKS, find_task, mmlu
from blob_pyro.tasks.collators import (
    Collator,
    InstructionCollator,
    LetterCollator,
    OptionCollator,
    PromptCollator,
    Scoring,
    Task,
    TextCollator,
    collator_for,
)
from blob_pyro.tasks.glue import TEXT_TASKS
from blob_pyro.tasks.helpdesk import helpdesk, helpdesk_out_of_scope
from blob_pyro.tasks.label_tokens import label_token_ids
from blob_pyro.tasks.lengths import LongestFirst, lengths
from blob_pyro.tasks.multiple_choice import MultipleChoiceTask
from blob_pyro.tasks.own_texts import class_order, class_values, text_task, texts_of
from blob_pyro.tasks.question import Question
from blob_pyro.tasks.source import Source
from blob_pyro.tasks.table import table
from blob_pyro.tasks.task_data import TaskData
from blob_pyro.tasks.text_classification import TextClassificationTask
from blob_pyro.tasks.text_source import LabelledText, TextSource

__all__ = [
    # by name
    "Task",
    "find_task",
    # texts with a class
    "TEXT_TASKS",
    "TextClassificationTask",
    "TextSource",
    "LabelledText",
    "helpdesk",
    "helpdesk_out_of_scope",
    "table",
    "text_task",
    "texts_of",
    "class_order",
    "class_values",
    # questions with options
    "TASKS",
    "MultipleChoiceTask",
    "Question",
    "mmlu",
    # where rows come from, and what was read
    "Source",
    "TaskData",
    # from texts to tensors
    "Scoring",
    "Collator",
    "collator_for",
    "LetterCollator",
    "InstructionCollator",
    "OptionCollator",
    "PromptCollator",
    "TextCollator",
    "LongestFirst",
    "lengths",
    "label_token_ids",
]
