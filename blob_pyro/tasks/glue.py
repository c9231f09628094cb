"""The GLUE and SuperGLUE tasks of the papers on Bayesian LoRA, mostly for encoders."""

from __future__ import annotations

from blob_pyro.tasks.source import ANSWERED
from blob_pyro.tasks.text_classification import TextClassificationTask
from blob_pyro.tasks.text_source import TextSource

NO_YES = ("no", "yes")


def _glue(config: str, text: str, text_pair: str | None = None) -> TextSource:
    return TextSource("nyu-mll/glue", config, ANSWERED, text, text_pair)


def _super_glue(config: str, text: str, text_pair: str) -> TextSource:
    return TextSource("aps/super_glue", config, ANSWERED, text, text_pair)


# Classes in the order of the data sets' numbers.  A causal LM is asked in words of one token.
TEXT_TASKS: dict[str, TextClassificationTask] = {
    task.name: task
    for task in (
        TextClassificationTask(
            "glue_rte",
            {},
            ("entailment", "not_entailment"),
            "{text}\nStatement: {text_pair}\nQuestion: does the statement follow?\nAnswer:",
            ("yes", "no"),
            _glue("rte", "{sentence1}", "{sentence2}"),
        ),
        TextClassificationTask(
            "glue_mrpc",
            {},
            ("not_equivalent", "equivalent"),
            "1. {text}\n2. {text_pair}\nQuestion: do both sentences say the same?\nAnswer:",
            NO_YES,
            _glue("mrpc", "{sentence1}", "{sentence2}"),
        ),
        TextClassificationTask(
            "glue_cola",
            {},
            ("unacceptable", "acceptable"),
            "{text}\nQuestion: is this sentence grammatical?\nAnswer:",
            NO_YES,
            _glue("cola", "{sentence}"),
        ),
        TextClassificationTask(
            "super_glue_wic",
            {},
            ("different_sense", "same_sense"),
            "1. {text}\n2. {text_pair}\n"
            "Question: does the word have the same sense in both sentences?\nAnswer:",
            NO_YES,
            _super_glue("wic", "{word}: {sentence1}", "{word}: {sentence2}"),
        ),
        TextClassificationTask(
            "super_glue_boolq",
            {},
            ("false", "true"),
            "{text_pair}\nQuestion: {text}?\nAnswer:",
            source=_super_glue("boolq", "{question}", "{passage}"),
        ),
    )
}
