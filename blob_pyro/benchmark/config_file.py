"""A benchmark as a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from reprlib import repr as repr_short
from typing import Any

import yaml

from blob_pyro.benchmark.config import BenchmarkConfig, MethodConfig, TaskConfig
from blob_pyro.networks import torch_dtype
from blob_pyro.recipe import RECIPES, ZERO_SHOT, Recipe, find_method
from blob_pyro.recipe.method import KINDS
from blob_pyro.tasks import find_task
from blob_pyro.training import TrainingConfig


def mapping(what: str, value: Any) -> dict[str, Any]:
    """Give a value that has to have entries; ``what`` names it in the error.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> mapping("tasks", ["openbookqa"])
    Traceback (most recent call last):
    ...
    ValueError: tasks is ['openbookqa'], which has no 'name: value' entries
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {repr_short(value)}, which has no 'name: value' entries")
    return value


def numbers(what: str, value: Any) -> tuple[int, ...]:
    """Give a value that has to be a list of whole numbers, which is not empty.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> numbers("seeds", [0, 1])
    (0, 1)
    """
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise ValueError(
            f"{what} is {repr_short(value)}; give a list of whole numbers, such as [0, 10]"
        )
    return tuple(value)


def check_type(what: str, value: Any, default: Any) -> None:
    """Raise if a value is not of a setting's kind, which its default tells.

    Raises
    ------
    ValueError
        With the value and what it should be.

    Examples
    --------
    >>> check_type("rank", "8", 0)
    Traceback (most recent call last):
    ...
    ValueError: rank is '8'; give a whole number
    """
    kind = type(default)
    if kind in (bool, int, str):
        right, wanted = type(value) is kind, KINDS[kind]
    elif isinstance(default, dict):
        right, wanted = isinstance(value, dict), "its options, such as {rate: 0.1}"
    elif isinstance(default, tuple):
        right, wanted = isinstance(value, list), "a list, such as [q_proj, v_proj]"
    else:
        right = isinstance(value, int | float) or value is None
        wanted = f"{KINDS[float]} (YAML needs the point of 1.0e-3)"
    if not right:
        raise ValueError(f"{what} is {repr_short(value)}; give {wanted}")


def check_keys(what: str, entry: Mapping[str, Any], known: set[str]) -> None:
    """Raise if an entry has a setting that nothing reads.

    Raises
    ------
    ValueError
        With the first such setting and those that are known.

    Examples
    --------
    >>> check_keys("method 'a'", {"rnak": 4}, {"rank"})
    Traceback (most recent call last):
    ...
    ValueError: method 'a' has the unknown setting 'rnak'; known are ['rank']
    """
    unknown = sorted(str(key) for key in entry if key not in known)
    if unknown:
        raise ValueError(
            f"{what} has the unknown setting {unknown[0]!r}; known are {sorted(known)}"
        )


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
        return _config(mapping("the file", content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _config(content: dict[str, Any]) -> BenchmarkConfig:
    check_keys("the file", content, {*_names(BenchmarkConfig), "training"})
    for needed in ("model", "tasks", "methods"):
        if not content.get(needed):
            raise ValueError(f"{needed} is missing; a benchmark has a model, tasks and methods")
    training = mapping("training", content.pop("training", {}))
    check_type("model", content["model"], "")
    tasks = {name: _task(name, entry) for name, entry in mapping("tasks", content["tasks"]).items()}
    methods = {
        name: _method(name, {**training, **mapping(f"method {name!r}", entry)})
        for name, entry in mapping("methods", content["methods"]).items()
    }
    if not any(method.recipe.method == ZERO_SHOT.name for method in methods.values()):
        entry = {**training, "method": ZERO_SHOT.name, "num_samples": [0]}
        bare = _method(ZERO_SHOT.name, {k: v for k, v in entry.items() if k != "validate_every"})
        methods = {ZERO_SHOT.name: bare, **methods}
    methods = {name: _with_start(name, methods) for name in methods}
    seeds = numbers("seeds", content.get("seeds", list(BenchmarkConfig.seeds)))
    test_limit = content.get("test_limit")
    check_type("test_limit", 0 if test_limit is None else test_limit, 0)
    dtype = content.get("dtype", BenchmarkConfig.dtype)
    torch_dtype(dtype)
    split = content.get("split", BenchmarkConfig.split)
    if split not in ("test", "validation"):
        raise ValueError(f"split is {split!r}; give test, or validation to choose settings by")
    return BenchmarkConfig(content["model"], tasks, methods, seeds, test_limit, dtype, split)


def _task(name: str, entry: Any) -> TaskConfig:
    check_type("the name of a task", name, "")
    entry = mapping(f"task {name!r}", entry)
    check_keys(f"task {name!r}", entry, _names(TaskConfig))
    for key in ("train", "validation"):
        if entry.get(key) is not None:
            check_type(f"task {name!r}: {key}", entry[key], 0)
    ood = entry.get("ood", [])
    check_type(f"task {name!r}: ood", ood, ())
    config = TaskConfig(entry.get("train"), tuple(ood), entry.get("validation"))
    kind = type(find_task(name))
    for other in config.ood:
        check_type(f"task {name!r}: ood", other, "")
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
    check_keys(f"method {name!r}", entry, known)
    start = entry.get("recipe", "small")
    check_type(f"method {name!r}: recipe", start, "")
    if start not in RECIPES:
        raise ValueError(f"method {name!r}: recipe {start!r} is none of {sorted(RECIPES)}")
    defaults = {
        **vars(RECIPES[start]),
        **vars(RECIPES[start].training),
        "target_modules": (),
        "start": "",
    }
    for key in (of_recipe | of_training) & entry.keys():
        check_type(f"method {name!r}: {key}", entry[key], defaults[key])
    chosen = {key: entry[key] for key in of_recipe & entry.keys() if key != "start"}
    if "target_modules" in chosen:
        chosen["target_modules"] = tuple(chosen["target_modules"])
    training = {key: entry[key] for key in of_training & entry.keys()}
    recipe = RECIPES[start]
    recipe = replace(recipe, **chosen, training=replace(recipe.training, **training))
    num_samples = entry.get("num_samples", list(MethodConfig.num_samples))
    return MethodConfig(
        recipe, numbers(f"method {name!r}: num_samples", num_samples), entry.get("start")
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
