from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blob_pyro.benchmark import Cell, TaskConfig, read_config
from blob_pyro.recipe import METHODS, PAPER

EXAMPLES = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_a_file_becomes_tasks_methods_and_seeds(content: Any, write: Any) -> None:
    config = read_config(write(content))
    assert config.seeds == (0, 1)
    assert config.test_limit == 5
    assert config.tasks["openbookqa"] == TaskConfig(4, ("ai2_arc_easy",))
    assert list(config.methods) == ["zero_shot", "mle", "blob"]
    assert config.methods["mle"].num_samples == (0,)
    recipe = config.methods["blob"].recipe
    assert (recipe.method, recipe.init_scale, recipe.rank) == ("blob", 0.3, 2)
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
        ({"model": None}, "model is missing; a benchmark has a model, tasks and methods"),
        ({"tasks": {}}, "tasks is missing"),
        ({"method": {}}, "the file has the unknown setting 'method'; known are"),
        ({"tasks": {"trivia": {}}}, "the task 'trivia' is unknown; use openbookqa"),
        ({"tasks": {"openbookqa": {"ood": ["x"]}}}, "the task 'x' is unknown"),
        (
            {"tasks": {"openbookqa": {"size": 3}}},
            "task 'openbookqa' has the unknown setting 'size'",
        ),
        ({"tasks": {"openbookqa": None}}, "task 'openbookqa' is None, which has no 'name: value'"),
        ({"methods": {"a": {"lr": 1}}}, "method 'a' has the unknown setting 'lr'"),
        ({"methods": {"a": {"seed": 1}}}, "method 'a' has the unknown setting 'seed'"),
        ({"methods": {"a": {"recipe": "big"}}}, r"recipe 'big' is none of \['paper', 'small'\]"),
        ({"methods": {"a": {"num_steps": 0}}}, "num_steps=0 must be at least 1"),
        ({"methods": {"a": {"method": "BLoB"}}}, "method='BLoB' is unknown; use one of"),
        ({"methods": {"a": {"cycle": "epochs"}}}, "cycle='epochs' is unknown"),
        ({"methods": {"a": {"kl_scale": "1e-3"}}}, "kl_scale is '1e-3'; give a number .YAML needs"),
        ({"methods": {"a": {"rank": "eight"}}}, "rank is 'eight'; give a whole number"),
        ({"methods": {"a": {"num_steps": 2.5}}}, "num_steps is 2.5; give a whole number"),
        ({"methods": {"a": {"num_samples": 10}}}, "num_samples is 10; give a list of whole num"),
        ({"methods": {"a": {"target_modules": "q_proj"}}}, "target_modules is 'q_proj'; give a li"),
        ({"methods": {"a": {"schedule": 1}}}, "schedule is 1; give a name"),
        ({"methods": {"a": {"flipout": 1}}}, "flipout is 1; give true or false"),
        ({"methods": {"a": {"scoring": "words"}}}, "scoring='words' is unknown; use one of"),
        ({"methods": {"a": {"target_modules": None}}}, "target_modules is None; give a list"),
        ({"split": "train"}, "split is 'train'; give test, or validation"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown; use float32 or bfloat16"),
        ({"tasks": {"boolq": {"ood": ["glue_rte"]}}}, "ood 'glue_rte' is not of its kind; quest"),
        ({"seeds": []}, r"seeds is \[\]; give a list of whole numbers"),
        ({"test_limit": "ten"}, "test_limit is 'ten'; give a whole number"),
        ({"tasks": {"openbookqa": {"train": "many"}}}, "train is 'many'; give a whole number"),
        ({"tasks": {"openbookqa": {"validation": 0.1}}}, "validation is 0.1; give a whole number"),
        ({"tasks": {"openbookqa": {"ood": "boolq"}}}, "ood is 'boolq'; give a list"),
        ({"training": [1]}, r"training is \[1\], which has no"),
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
        ("a: [", "is not YAML"),
        ("- 1", "the file is"),
        ("!!python/object:os.system {}", "is not YAML"),
    ],
)
def test_another_file_is_refused(text: str, message: str, write: Any) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(write(text))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.yaml: cannot be read \(No such file"):
        read_config(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "name", ["few_shot_smollm2.yaml", "all_methods_smollm2.yaml", "table1_llama2_7b.yaml"]
)
def test_the_examples_are_benchmarks(name: str) -> None:
    config = read_config(EXAMPLES / name)
    assert (config.seeds, config.split) == ((0, 1, 2), "test")
    assert config.methods["mle"].recipe.method == "mle"
    assert config.methods["blob"].num_samples == (0, 5, 10)


def test_all_methods_go_on_from_the_cells_of_the_first_table() -> None:
    first, everything = (
        read_config(EXAMPLES / f"{name}_smollm2.yaml") for name in ("few_shot", "all_methods")
    )
    assert {method.recipe.method for method in everything.methods.values()} == set(METHODS)
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
    assert tuning.tasks["openbookqa"].train == table.tasks["openbookqa"].train
    recipes = [method.recipe for method in tuning.methods.values()]
    assert all(table.methods[name].recipe in recipes for name in chosen)


def test_the_papers_table_is_answered_by_letter_in_half_precision() -> None:
    config = read_config(EXAMPLES / "table1_llama2_7b.yaml")
    assert config.dtype == "bfloat16"
    assert {method.recipe.scoring for method in config.methods.values()} == {"letters"}
