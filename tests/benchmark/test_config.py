from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blob_pyro.benchmark import Cell, TaskConfig, read_config
from blob_pyro.recipe import METHODS, PAPER, Recipe

EXAMPLES = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_a_file_becomes_tasks_methods_and_seeds(content: Any, write: Any) -> None:
    config = read_config(write(content))
    assert config.seeds == (0, 1)
    assert config.max_test == 5
    assert config.tasks["openbookqa"] == TaskConfig(max_train=4, ood=("ai2_arc_easy",))
    assert list(config.methods) == ["zero_shot", "mle", "blob"]
    assert config.methods["mle"].num_samples == (0,)
    recipe = config.methods["blob"].recipe
    assert (recipe.method, recipe.init_scale, recipe.rank) == ("blob", 0.09, 2)
    assert (recipe.training.num_steps, recipe.training.batch_size) == (1, 2)


def test_a_method_starts_from_a_recipe(content: Any, write: Any) -> None:
    content["methods"] = {"paper": {"recipe": "paper", "target_modules": ["q_proj"]}}
    config = read_config(write(content))
    recipe = config.methods["paper"].recipe
    assert recipe.schedule == PAPER.schedule == "blob"
    assert recipe.training.kl_learning_rate == 0.01
    assert recipe.target_modules == ("q_proj",)
    assert recipe.training.num_steps == 1
    assert config.methods["paper"].num_samples == (10,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model=None: give a text"),
        ({"tasks": {}}, "tasks={}: give at least 1"),
        ({"methods": {}}, "methods={}: give at least 1"),
        ({"method": {}}, "'method' is no setting; did you mean 'methods'"),
        ({"tasks": {"trivia": {}}}, "the task 'trivia' is unknown; use openbookqa"),
        ({"tasks": {"openbookqa": {"ood": ["x"]}}}, "the task 'x' is unknown"),
        (
            {"tasks": {"openbookqa": {"train": 3}}},
            "'train' is no setting; did you",
        ),
        ({"tasks": {"openbookqa": None}}, "tasks.openbookqa=None: give 'name: value' entries"),
        ({"methods": {"a": None}}, "methods.a: give 'name: value' entries"),
        ({"methods": {"a/b": {}}}, "methods.a/b.*: use letters, digits"),
        ({"methods": {"a": {"lr": 1}}}, "methods.a: 'lr' is no setting"),
        ({"methods": {"a": {"rnak": 1}}}, "methods.a: 'rnak' is no setting; did you mean 'rank'"),
        ({"methods": {"a": {"seed": 1}}}, "methods.a: 'seed' is no setting of a method"),
        ({"methods": {"a": {"recipe": "big"}}}, r"recipe='big': use one of \['paper', 'small'\]"),
        (
            {"methods": {"a": {"num_steps": 0}}},
            "methods.a: num_steps=0: give a number of at",
        ),
        ({"methods": {"a": {"method": "BLoB"}}}, "method='BLoB' is unknown; use one of"),
        ({"methods": {"a": {"cycle": "epochs"}}}, "cycle='epochs': use 'epoch' or 'rescaled'"),
        ({"methods": {"a": {"kl_scale": "much"}}}, "methods.a: kl_scale='much': give a number"),
        ({"methods": {"a": {"rank": "eight"}}}, "rank='eight': give a whole number"),
        ({"methods": {"a": {"num_steps": 2.5}}}, "num_steps=2.5: give a whole number"),
        ({"methods": {"a": {"num_samples": 10}}}, "num_samples=10: give a list"),
        ({"methods": {"a": {"target_modules": "q_proj"}}}, "target_modules='q_proj': give a list"),
        ({"methods": {"a": {"schedule": 1}}}, "schedule=1: use 'blob', "),
        ({"methods": {"a": {"flipout": 1}}}, "flipout=1: give true or false"),
        ({"methods": {"a": {"options": {"x": 1}}}}, "options of method 'blob': 'x' is no setting"),
        ({"split": "train"}, "split='train': use 'test' or 'validation'"),
        ({"dtype": "int8"}, "dtype='int8': use 'float32', 'bfloat16'"),
        ({"tasks": {"boolq": {"ood": ["glue_rte"]}}}, "ood 'glue_rte' is of another kind; quest"),
        ({"seeds": []}, r"seeds=\[\]: give at least 1"),
        ({"max_test": "ten"}, "max_test='ten': give a whole number"),
        ({"max_test": 0}, "max_test=0: give a number of at least 1"),
        ({"tasks": {"openbookqa": {"max_train": "many"}}}, "max_train='many': give a whole number"),
        ({"tasks": {"openbookqa": {"ood": "boolq"}}}, "ood='boolq': give a list"),
        ({"training": [1]}, "training: give 'name: value' entries"),
    ],
)
def test_mistakes_are_named_with_their_file(
    change: Any, message: str, content: Any, write: Any
) -> None:
    with pytest.raises(ValueError, match=rf"benchmark.yaml: .*{message}"):
        read_config(write({**content, **change}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be used .ParserError"),
        ("- 1", "the file: give 'name: value' entries"),
        ("1: 2", "the file: give 'name: value' entries"),
        ("!!python/object:os.system {}", "cannot be used .ConstructorError"),
    ],
)
def test_another_file_is_refused(text: str, message: str, write: Any) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(write(text))


@pytest.mark.parametrize(
    "name", ["few_shot_smollm2.yaml", "all_methods_smollm2.yaml", "table1_llama2_7b.yaml"]
)
def test_the_examples_are_benchmarks(name: str) -> None:
    config = read_config(EXAMPLES / name)
    assert (config.seeds, config.split) == ((0, 1, 2), "test")
    assert config.methods["mle"].recipe.method == "mle"
    assert config.methods["blob"].num_samples == (0, 5, 10)


@pytest.mark.parametrize("name", ["", "_more", "_smollm2", "_sizes"])
def test_texts_are_compared_with_the_defaults_alone(name: str) -> None:
    config = read_config(EXAMPLES / f"few_shot_texts{name}.yaml")
    assert all(task.validation_fraction == 0.2 for task in config.tasks.values())
    own = {"method", "start", "options", "latent_layers", "training"}
    for method in config.methods.values():
        given = method.recipe.model_dump(exclude=own)
        assert given == Recipe().model_dump(exclude=own)
        training = method.recipe.training.changed(validate_every=None)
        assert training == Recipe().training


def test_all_methods_go_on_from_the_cells_of_the_first_table() -> None:
    first, everything = (
        read_config(EXAMPLES / f"{name}_smollm2.yaml") for name in ("few_shot", "all_methods")
    )
    # Questions with options have no head to probe, and a student is not one of the first table.
    used = {method.recipe.method for method in everything.methods.values()}
    assert used == METHODS.keys() - {"probe", "distilled"}
    for name in ("zero_shot", "mle", "mle_early", "map", "blob"):
        cell = Cell(name, "openbookqa", 1)
        assert cell.fingerprint(everything) == cell.fingerprint(first)


def test_what_is_random_is_predicted_by_draws() -> None:
    # The posterior mean of a Laplace approximation is the fit that it starts from.
    points = {"zero_shot", "mle", "mle_early", "map", "temperature"}
    methods = read_config(EXAMPLES / "all_methods_smollm2.yaml").methods
    for name in methods.keys() - points:
        assert max(methods[name].num_samples) > 0, name


@pytest.mark.parametrize(
    ("tried", "used", "chosen"),
    [
        ("few_shot_tuning", "few_shot_smollm2", ["blob"]),
        ("all_methods_tuning", "all_methods_smollm2", ["bbb", "scalabl", "swag", "ivon"]),
    ],
)
def test_settings_are_tried_on_the_task_of_the_table_and_never_on_its_test(
    tried: str, used: str, chosen: list[str]
) -> None:
    tuning, table = (read_config(EXAMPLES / f"{name}.yaml") for name in (tried, used))
    assert tuning.split == "validation"
    assert tuning.tasks["openbookqa"].max_train == table.tasks["openbookqa"].max_train
    recipes = [method.recipe for method in tuning.methods.values()]
    assert all(table.methods[name].recipe in recipes for name in chosen)


def test_the_papers_table_is_answered_by_letter_in_half_precision() -> None:
    config = read_config(EXAMPLES / "table1_llama2_7b.yaml")
    assert config.dtype == "bfloat16"
    assert {method.recipe.scoring for method in config.methods.values()} == {"letters"}
