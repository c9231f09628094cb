"""The tasks of the papers on Bayesian LoRA by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from blob_pyro.tasks.built_in import helpdesk, helpdesk_out_of_scope, reviews
from blob_pyro.tasks.glue import TEXT_TASKS
from blob_pyro.tasks.multiple_choice import MultipleChoiceTask
from blob_pyro.tasks.question import Question, listed
from blob_pyro.tasks.source import ANSWERED, SPLITS, Row, Source

if TYPE_CHECKING:
    from blob_pyro.tasks.collators import Task


def _prompt(question: str, passage: str = "") -> str:
    before = f"{passage.strip()}\n" if passage else ""
    return f"{before}Question: {question.strip()}\nAnswer:"


def _lettered(question: str, options: Sequence[str]) -> str:
    return f"Question: {question.strip()}\n{listed(options)}\nAnswer:"


def _with_choices(row: Row, stem: str = "question") -> Question:
    """Read ARC's, OpenBookQA's and CommonsenseQA's layout: texts, labels and a key."""
    choices: Mapping[str, Any] = row["choices"]
    key, labels = row["answerKey"], list(choices["label"])
    if key not in labels:
        raise ValueError(f"has the answer {key!r}, which is none of the options {labels}")
    options = tuple(text.strip() for text in choices["text"])
    if len(options) != len(labels):
        raise ValueError(f"has {len(options)} options but {len(labels)} labels")
    asked = row[stem]
    return Question(
        row["id"], _prompt(asked), options, _lettered(asked, options), labels.index(key)
    )


def _mmlu(row: Row) -> Question:
    # No ids in this data set; the question is its own.
    name = row.get("id", row["question"])
    options = tuple(text.strip() for text in row["choices"])
    asked = row["question"]
    return Question(name, _prompt(asked), options, _lettered(asked, options), row["answer"])


def _winogrande(row: Row) -> Question:
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError("has no gap '_' in its sentence")
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"has the answer {row['answer']!r}, which is neither '1' nor '2'")
    options = (f"{row['option1']}{after}", f"{row['option2']}{after}")
    prompt = before.strip() or "Sentence:"
    lettered = _lettered(
        f"which one fills the gap? {row['sentence']}", (row["option1"], row["option2"])
    )
    name = row.get("qID", row["sentence"])
    return Question(name, prompt, options, lettered, int(row["answer"]) - 1)


def _boolq(row: Row) -> Question:
    if not isinstance(row["answer"], bool):
        raise TypeError(f"has the answer {row['answer']!r}, which is neither true nor false")
    asked = f"{row['question'].strip()}?"
    return Question(
        row.get("id", row["question"]),
        _prompt(asked, row["passage"]),
        ("no", "yes"),
        _prompt(f"true or false: {asked}", row["passage"]),
        int(row["answer"]),
    )


def mmlu(subject: str) -> MultipleChoiceTask:
    """Make the task of one MMLU subject, such as ``"college_physics"``.

    References
    ----------
    Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.
    """
    splits = {"validation": "validation", "test": "test"}
    return MultipleChoiceTask(f"mmlu_{subject}", Source("cais/mmlu", subject, splits), 4, _mmlu)


def _arc(name: str, config: str) -> MultipleChoiceTask:
    return MultipleChoiceTask(name, Source("allenai/ai2_arc", config, SPLITS), 5, _with_choices)


def _winogrande_of_size(size: str) -> MultipleChoiceTask:
    config = f"winogrande_{size}"
    source = Source("allenai/winogrande", config, ANSWERED)
    return MultipleChoiceTask(config, source, 2, _winogrande)


def find_task(name: str) -> Task:
    """Find a task by its name.

    Parameters
    ----------
    name
        One of :data:`TASKS` (questions) or :data:`TEXT_TASKS` (texts), ``"helpdesk"``,
        ``"reviews"``, ``"helpdesk_out_of_scope"`` (to test on only), or any subject as
        ``mmlu_SUBJECT``.

    Returns
    -------
    MultipleChoiceTask or TextClassificationTask
        Its ``load`` reads the examples.

    Raises
    ------
    ValueError
        If there is no such task.

    Examples
    --------
    >>> find_task("mmlu_astronomy").source.config
    'astronomy'
    >>> find_task("glue_rte").class_names
    ('entailment', 'not_entailment')
    """
    if name in TASKS:
        return TASKS[name]
    if name in TEXT_TASKS:
        return TEXT_TASKS[name]
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    # A subject is part of a path, which must stay below the data's folder.
    if re.fullmatch(r"mmlu_\w+", name):
        return mmlu(name.removeprefix("mmlu_"))
    known = ", ".join([*TASKS, *TEXT_TASKS, *_BUILT_IN])
    raise ValueError(f"the task {name!r} is unknown; use {known}, or mmlu_SUBJECT")


_BUILT_IN = {
    "helpdesk": helpdesk,
    "helpdesk_out_of_scope": helpdesk_out_of_scope,
    "reviews": reviews,
}

TASKS: dict[str, MultipleChoiceTask] = {
    task.name: task
    for task in (
        MultipleChoiceTask(
            "openbookqa",
            Source("allenai/openbookqa", "main", SPLITS),
            4,
            partial(_with_choices, stem="question_stem"),
        ),
        _arc("ai2_arc_easy", "ARC-Easy"),
        _arc("ai2_arc_challenge", "ARC-Challenge"),
        MultipleChoiceTask(
            "commonsense_qa", Source("tau/commonsense_qa", "default", ANSWERED), 5, _with_choices
        ),
        _winogrande_of_size("s"),
        _winogrande_of_size("m"),
        MultipleChoiceTask(
            "boolq", Source("google/boolq", "default", ANSWERED), 2, _boolq, ("false", "true")
        ),
        mmlu("college_chemistry"),
        mmlu("college_physics"),
    )
}
