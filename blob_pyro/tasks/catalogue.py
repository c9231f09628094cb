"""The multiple-choice tasks of the papers on Bayesian LoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from blob_pyro.tasks.multiple_choice import MultipleChoiceTask, Row
from blob_pyro.tasks.question import Question

SPLITS = {split: split for split in ("train", "validation", "test")}
# The test split's answers are not public.
ANSWERED = {"train": "train", "validation": "validation", "test": "validation"}


def _prompt(question: str, passage: str = "") -> str:
    before = f"{passage.strip()}\n" if passage else ""
    return f"{before}Question: {question.strip()}\nAnswer:"


def _with_choices(row: Row, stem: str = "question") -> Question:
    """Read ARC's, OpenBookQA's and CommonsenseQA's layout: texts, labels and a key."""
    choices: Mapping[str, Any] = row["choices"]
    key, labels = row["answerKey"], list(choices["label"])
    if key not in labels:
        raise ValueError(f"has the answer {key!r}, which is none of the options {labels}")
    options = tuple(text.strip() for text in choices["text"])
    if len(options) != len(labels):
        raise ValueError(f"has {len(options)} options but {len(labels)} labels")
    return Question(row["id"], _prompt(row[stem]), options, labels.index(key))


def _mmlu(row: Row) -> Question:
    # No ids in this data set; the question is its own.
    name = row.get("id", row["question"])
    options = tuple(text.strip() for text in row["choices"])
    return Question(name, _prompt(row["question"]), options, row["answer"])


def _winogrande(row: Row) -> Question:
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError("has no gap '_' in its sentence")
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"has the answer {row['answer']!r}, which is neither '1' nor '2'")
    options = (f"{row['option1']}{after}", f"{row['option2']}{after}")
    prompt = before.strip() or "Sentence:"
    return Question(row.get("qID", row["sentence"]), prompt, options, int(row["answer"]) - 1)


def _boolq(row: Row) -> Question:
    if not isinstance(row["answer"], bool):
        raise TypeError(f"has the answer {row['answer']!r}, which is neither true nor false")
    prompt = _prompt(f"{row['question'].strip()}?", row["passage"])
    return Question(row.get("id", row["question"]), prompt, ("no", "yes"), int(row["answer"]))


def mmlu(subject: str) -> MultipleChoiceTask:
    """Make the task of one MMLU subject, such as ``"college_physics"``.

    References
    ----------
    Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.
    """
    splits = {"validation": "validation", "test": "test"}
    return MultipleChoiceTask(f"mmlu_{subject}", "cais/mmlu", subject, 4, _mmlu, splits)


def _arc(name: str, config: str) -> MultipleChoiceTask:
    return MultipleChoiceTask(name, "allenai/ai2_arc", config, 5, _with_choices, SPLITS)


def _winogrande_of_size(size: str) -> MultipleChoiceTask:
    config = f"winogrande_{size}"
    return MultipleChoiceTask(config, "allenai/winogrande", config, 2, _winogrande, ANSWERED)


def find_task(name: str) -> MultipleChoiceTask:
    """Find a task by its name: one of :data:`TASKS`, or any subject as ``mmlu_SUBJECT``.

    Raises
    ------
    ValueError
        If there is no such task.

    Examples
    --------
    >>> find_task("mmlu_astronomy").config
    'astronomy'
    """
    if name in TASKS:
        return TASKS[name]
    # A subject is part of a path, which must stay below the data's folder.
    if re.fullmatch(r"mmlu_\w+", name):
        return mmlu(name.removeprefix("mmlu_"))
    raise ValueError(f"the task {name!r} is unknown; use {', '.join(TASKS)}, or mmlu_SUBJECT")


TASKS: dict[str, MultipleChoiceTask] = {
    task.name: task
    for task in (
        MultipleChoiceTask(
            "openbookqa",
            "allenai/openbookqa",
            "main",
            4,
            partial(_with_choices, stem="question_stem"),
            SPLITS,
        ),
        _arc("ai2_arc_easy", "ARC-Easy"),
        _arc("ai2_arc_challenge", "ARC-Challenge"),
        MultipleChoiceTask(
            "commonsense_qa", "tau/commonsense_qa", "default", 5, _with_choices, ANSWERED
        ),
        _winogrande_of_size("s"),
        _winogrande_of_size("m"),
        MultipleChoiceTask("boolq", "google/boolq", "default", 2, _boolq, ANSWERED),
        mmlu("college_chemistry"),
        mmlu("college_physics"),
    )
}
