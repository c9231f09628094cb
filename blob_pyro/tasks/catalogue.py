"""The tasks by name: those of the papers on Bayesian LoRA, and what comes with the library."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from blob_pyro.tasks.class_names import listed
from blob_pyro.tasks.multiple_choice import MultipleChoiceTask, Question
from blob_pyro.tasks.source import ANSWERED, SPLITS, Row, Source, TextSource
from blob_pyro.tasks.text_classification import TextClassificationTask

if TYPE_CHECKING:
    from blob_pyro.tasks.collators import Task


def _prompt(question: str, passage: str = "") -> str:
    before = f"{passage.strip()}\n" if passage else ""
    return f"{before}Question: {question.strip()}\nAnswer:"


def _lettered(question: str, options: Sequence[str]) -> str:
    return f"Question: {question.strip()}\n{listed(options)}\nAnswer:"


def _question(name: str, asked: str, texts: Sequence[str], label: int) -> Question:
    options = tuple(text.strip() for text in texts)
    return Question(name, _prompt(asked), options, _lettered(asked, options), label)


def _with_choices(row: Row, stem: str = "question") -> Question:
    """Read ARC's, OpenBookQA's and CommonsenseQA's layout: texts, labels and a key."""
    choices: Mapping[str, Any] = row["choices"]
    key, labels, texts = row["answerKey"], list(choices["label"]), choices["text"]
    if key not in labels:
        raise ValueError(f"has the answer {key!r}, which is not among the options {labels}")
    if len(texts) != len(labels):
        raise ValueError(f"has {len(texts)} options but {len(labels)} labels")
    return _question(row["id"], row[stem], texts, labels.index(key))


def _mmlu(row: Row) -> Question:
    # No ids in this data set; the question is its own.
    asked = row["question"]
    return _question(row.get("id", asked), asked, row["choices"], row["answer"])


def _winogrande(row: Row) -> Question:
    sentence, gap_fillers = row["sentence"], (row["option1"], row["option2"])
    before, gap, after = sentence.partition("_")
    if not gap:
        raise ValueError("has no gap '_' in its sentence")
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"has the answer {row['answer']!r}, which is neither '1' nor '2'")
    options = tuple(f"{filler}{after}" for filler in gap_fillers)
    lettered = _lettered(f"which one fills the gap? {sentence}", gap_fillers)
    prompt, label = before.strip() or "Sentence:", int(row["answer"]) - 1
    return Question(row.get("qID", sentence), prompt, options, lettered, label)


def _boolq(row: Row) -> Question:
    if not isinstance(row["answer"], bool):
        raise TypeError(f"has the answer {row['answer']!r}, which is neither true nor false")
    asked, passage = f"{row['question'].strip()}?", row["passage"]
    prompt, lettered = _prompt(asked, passage), _prompt(f"true or false: {asked}", passage)
    name = row.get("id", row["question"])
    return Question(name, prompt, ("no", "yes"), lettered, int(row["answer"]))


def mmlu(subject: str) -> MultipleChoiceTask:
    """Make the task of one MMLU subject, such as ``"college_physics"``.

    References
    ----------
    Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.
    """
    splits = {"validation": "validation", "test": "test"}
    return MultipleChoiceTask(f"mmlu_{subject}", Source("cais/mmlu", subject, splits), 4, _mmlu)


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
    named: Mapping[str, Task] = {**TASKS, **TEXT_TASKS}
    if name in named:
        return named[name]
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    # A subject is part of a path, which must stay below the data's folder.
    if re.fullmatch(r"mmlu_\w+", name):
        return mmlu(name.removeprefix("mmlu_"))
    known = ", ".join([*named, *_BUILT_IN])
    raise ValueError(f"the task {name!r} is unknown; use {known}, or mmlu_SUBJECT")


def helpdesk() -> TextClassificationTask:
    """Load the help-desk messages: ten intents, and messages that belong to none.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` (250), ``validation`` (100), ``test`` (200) and ``out_of_scope`` (100,
        label -1).

    Examples
    --------
    >>> task = helpdesk()
    >>> {split: len(data) for split, data in task.splits.items()}
    {'train': 250, 'validation': 100, 'test': 200, 'out_of_scope': 100}
    """
    return _built_in("helpdesk", prompt="{text}\n\nThe problem is about")


def reviews() -> TextClassificationTask:
    """Load reviews of one sentence, praise or complaint, and sentences that are no reviews.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` (128), ``validation`` (52), ``test`` (160) and ``out_of_scope`` (60, label
        -1).

    Examples
    --------
    >>> reviews().class_names
    ('negative', 'positive')
    """
    return _built_in("reviews", prompt="{text}\n\nThis review is")


def helpdesk_out_of_scope() -> TextClassificationTask:
    """Load the help-desk messages that belong to none of its ten intents, as a test split.

    Examples
    --------
    >>> set(helpdesk_out_of_scope().splits["test"]["label"])
    {-1}
    """
    splits = {"test": helpdesk().splits["out_of_scope"]}
    return replace(helpdesk(), name="helpdesk_out_of_scope", splits=splits)


def _built_in(name: str, prompt: str) -> TextClassificationTask:
    from datasets import Dataset

    source = resources.files("blob_pyro.tasks") / "data" / f"{name}.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    class_names = tuple(dict.fromkeys(row["label"] for row in rows if row["label"] is not None))
    # What belongs to no class has the label -1.
    numbers = {name: number for number, name in enumerate(class_names)} | {None: -1}
    splits: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        example = {"text": row["text"], "label": numbers[row["label"]]}
        splits.setdefault(row["split"], []).append(example)
    data = {split: Dataset.from_list(examples) for split, examples in splits.items()}
    return TextClassificationTask(name, data, class_names, prompt)


_BUILT_IN = {task.__name__: task for task in (helpdesk, helpdesk_out_of_scope, reviews)}

_openbookqa = partial(_with_choices, stem="question_stem")
_QUESTIONS: Any = (
    ("openbookqa", "allenai/openbookqa", "main", SPLITS, 4, _openbookqa),
    ("ai2_arc_easy", "allenai/ai2_arc", "ARC-Easy", SPLITS, 5, _with_choices),
    ("ai2_arc_challenge", "allenai/ai2_arc", "ARC-Challenge", SPLITS, 5, _with_choices),
    ("commonsense_qa", "tau/commonsense_qa", "default", ANSWERED, 5, _with_choices),
    ("winogrande_s", "allenai/winogrande", "winogrande_s", ANSWERED, 2, _winogrande),
    ("winogrande_m", "allenai/winogrande", "winogrande_m", ANSWERED, 2, _winogrande),
    ("boolq", "google/boolq", "default", ANSWERED, 2, _boolq, ("false", "true")),
)
TASKS: dict[str, MultipleChoiceTask] = {
    name: MultipleChoiceTask(name, Source(path, config, splits), *rest)
    for name, path, config, splits, *rest in _QUESTIONS
} | {task.name: task for task in (mmlu("college_chemistry"), mmlu("college_physics"))}


def _text_task(name: str, entry: Mapping[str, Any]) -> TextClassificationTask:
    pair = entry.get("text_pair")
    source = TextSource(entry["path"], entry["config"], ANSWERED, entry["text"], pair)
    classes, words = tuple(entry["class_names"]), tuple(entry.get("words", ()))
    return TextClassificationTask(name, {}, classes, entry["prompt"], words, source)


_TEXTS = resources.files("blob_pyro.tasks") / "data" / "text_tasks.yaml"
TEXT_TASKS: dict[str, TextClassificationTask] = {
    name: _text_task(name, entry)
    for name, entry in yaml.safe_load(_TEXTS.read_text(encoding="utf-8")).items()
}
