from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.benchmark import (
    BenchmarkConfig,
    Cell,
    MethodConfig,
    TaskConfig,
    cell_run,
    read_config,
    run_benchmark,
)
from blob_pyro.benchmark.data import (
    benchmark_task,
    evaluation_data,
    training_and_validation_data,
    training_data,
)
from blob_pyro.recipe import SMALL
from blob_pyro.recipe.predictions import load_predictions
from blob_pyro.tasks import find_task

TASK = find_task("openbookqa")


@pytest.fixture
def with_validation(questions: str) -> Path:
    """The questions, with a validation split of other ids."""
    folder = Path(questions) / "openbookqa" / "main"
    text = (folder / "train.jsonl").read_text().replace("train-", "validation-")
    text = text.replace("problem", "trouble")
    (folder / "validation.jsonl").write_text(text)
    return Path(questions)


def ids(data: Any) -> list[str]:
    return list(data["id"])


def test_a_task_with_a_validation_split_is_stopped_by_it(with_validation: Path) -> None:
    config = TaskConfig(max_train=4, max_validation=3)
    train, validation = training_and_validation_data(TASK, config, with_validation, seed=1)
    assert ids(train) == ids(training_data(TASK, config, with_validation, seed=1))
    assert len(validation) == 3
    assert all(name.startswith("validation-") for name in ids(validation))
    everything = training_and_validation_data(TASK, TaskConfig(), with_validation, seed=1)
    assert [len(data) for data in everything] == [6, 6]


def test_elsewhere_training_data_are_kept_for_it(questions: str) -> None:
    config = TaskConfig(max_train=3, max_validation=2)
    train, validation = training_and_validation_data(TASK, config, Path(questions), seed=1)
    assert ids(train) == ids(training_data(TASK, config, Path(questions), seed=1))
    assert len(validation) == 2
    assert not set(ids(train)) & set(ids(validation))
    everything = TaskConfig(max_validation=2)
    rest, kept = training_and_validation_data(TASK, everything, Path(questions), seed=1)
    assert len(rest) == 4
    # A temperature goes on from a fit without validation, which has not seen them either.
    assert ids(rest) == ids(training_data(TASK, everything, Path(questions), seed=1))
    assert not set(ids(rest)) & set(ids(kept))


def test_the_split_that_is_tested_on_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "winogrande" / "winogrande_s"
    folder.mkdir(parents=True)
    row = '{"qID": "NAME", "sentence": "A _ b", "option1": "x", "option2": "y", "answer": "1"}\n'
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(row.replace("NAME", split) * 4)
    _, validation = training_and_validation_data(
        find_task("winogrande_s"), TaskConfig(max_train=2, max_validation=2), tmp_path, seed=0
    )
    assert all(name.startswith("train") for name in ids(validation))


@pytest.mark.parametrize(("limit", "count"), [(None, 6), (4, 4), (300, 6)])
def test_a_task_with_fewer_test_questions_than_the_limit_has_all_of_them(
    limit: int | None, count: int, questions: str
) -> None:
    benchmark = BenchmarkConfig(
        model="m",
        tasks={"openbookqa": TaskConfig()},
        methods={"blob": MethodConfig(recipe=SMALL)},
        max_test=limit,
    )
    data = evaluation_data(TASK, benchmark, TaskConfig(), Path(questions), seed=1)
    assert len(data) == count
    if limit == 4:
        assert ids(data) == ids(TASK.load("test", data_dir=Path(questions), limit=4).data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TaskConfig(max_train=3),
            "openbookqa has no validation examples that the test does not use; g",
        ),
        (
            TaskConfig(max_train=3, max_validation=4),
            "has 6 training examples, too few to hold out 4 and to train on 3 o",
        ),
        (TaskConfig(max_validation=6), "too few to hold out 6 and to train on some others"),
    ],
)
def test_too_few_questions_are_refused(config: TaskConfig, message: str, questions: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_and_validation_data(TASK, config, Path(questions), seed=0)


def test_only_methods_that_ask_for_it_are_stopped(
    content: Any, write: Any, with_validation: Path, tmp_path: Path
) -> None:
    content["seeds"], content["tasks"] = [0], {"openbookqa": {"max_train": 4, "max_validation": 3}}
    content["training"]["num_steps"] = 3
    content["methods"]["stopped"] = {**content["methods"]["mle"], "validate_every": 1}
    shutil.rmtree(with_validation / "ai2_arc")
    results = run_benchmark(read_config(write(content)), tmp_path / "results", with_validation)
    assert results[Cell("mle", "openbookqa", 0)]["best_step"] is None
    assert results[Cell("stopped", "openbookqa", 0)]["best_step"] in (0, 1, 2)


def test_settings_are_chosen_without_the_test_questions(
    content: Any, write: Any, with_validation: Path, tmp_path: Path
) -> None:
    content.update(seeds=[0], split="validation")
    content["tasks"] = {
        "openbookqa": {"max_train": 4, "max_validation": 3, "ood": ["ai2_arc_easy"]}
    }
    for file in with_validation.rglob("test.jsonl"):
        file.unlink()
    config = read_config(write(content))
    results = run_benchmark(config, tmp_path / "results", with_validation)
    metrics = results[Cell("blob", "openbookqa", 0)]["metrics"]
    assert {tuple(tested) for tested in metrics.values()} == {("openbookqa",)}
    kept = load_predictions(tmp_path / "results/draws/blob-openbookqa-seed0-openbookqa-draws2.npz")
    assert all(name.startswith("validation-") for name in kept.ids)


@pytest.fixture
def with_table(questions: str) -> Path:
    """A table of three labels, twelve texts each to train on."""
    folder = Path(questions) / "desk"
    folder.mkdir()
    for split, number in (("train", 12), ("test", 4), ("strangers", 3)):
        rows = [
            {"text": f"{split} {name} {i}", "label": None if split == "strangers" else name}
            for name in ("login", "printing", "spam")
            for i in range(number)
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    return Path(questions)


@pytest.fixture
def desk(content: Any, write: Any) -> Any:
    def read(**settings: Any) -> BenchmarkConfig:
        content["tables"] = {
            "desk": {},
            "strangers": {"folder": "desk", "test": "strangers"},
            "two": {"folder": "desk", "classes": {"all": ["login", "printing"], "bad": ["spam"]}},
        }
        content["tasks"] = {"desk": {"ood": ["strangers"], **settings}}
        return read_config(write(content))

    return read


def test_a_table_of_the_data_s_folder_is_a_task(desk: Any, with_table: Path) -> None:
    task: Any = benchmark_task("desk", desk(), with_table)
    assert task.class_names == ("login", "printing", "spam")
    assert {split: len(data) for split, data in task.splits.items()} == {"train": 36, "test": 12}
    strangers: Any = benchmark_task("strangers", desk(), with_table)
    assert set(strangers.splits["test"]["label"]) == {-1}
    two: Any = benchmark_task("two", desk(), with_table)
    assert two.class_names == ("all", "bad")
    assert two.splits["test"]["label"] == [0] * 8 + [1] * 4
    with pytest.raises(ValueError, match="desk is a table in a folder; give the folder as --data"):
        benchmark_task("desk", desk(), None)
    (with_table / "desk" / "test.jsonl").write_text('{"text": "x", "label": "other"}\n')
    with pytest.raises(ValueError, match=r"test.jsonl, line 1: has the label 'other', which no"):
        benchmark_task("desk", desk(), with_table)


def test_the_seed_chooses_classes_and_as_many_examples_of_each(desk: Any, with_table: Path) -> None:
    config, chosen = desk(num_classes=2, max_train=8), set()
    for seed in range(6):
        task: Any = benchmark_task("desk", config, with_table, seed)
        chosen.add(task.class_names)
        train = training_data(task, config.tasks["desk"], with_table, seed)
        assert sorted(train["label"]) == [0] * 4 + [1] * 4
        for row in [*train, *task.splits["test"]]:
            assert task.class_names[row["label"]] in row["text"]
        assert len(task.splits["test"]) == 8
    assert len(chosen) == 3
    with pytest.raises(ValueError, match="give a multiple of num_classes"):
        desk(num_classes=2, max_train=7)
    with pytest.raises(ValueError, match="max_validation would take some of the training"):
        desk(num_classes=2, max_train=8, max_validation=6)


def test_what_is_held_out_comes_out_of_the_same_labels(
    desk: Any, with_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = desk(max_train=10, validation_fraction=0.2, ood=[])
    recipes = {
        name: SMALL.changed(method=method, num_steps=1, rank=2, **more)
        for name, method, more in (
            ("mle", "mle", {}),
            ("early", "mle", {"validate_every": 1}),
            ("scaled", "temperature", {"start": "mle"}),
        )
    }
    methods = {
        name: MethodConfig(
            recipe=recipe, num_samples=(0,), start="mle" if name == "scaled" else None
        )
        for name, recipe in recipes.items()
    }
    config = config.changed(methods=methods, seeds=(0,), max_test=4)
    seen: list[tuple[int, Any]] = []
    fine_tune = cell_run.fine_tune

    def spy(task: Any, *args: Any, **options: Any) -> Any:
        seen.append((len(task.splits["train"]), options["validation"]))
        return fine_tune(task, *args, **options)

    monkeypatch.setattr(cell_run, "fine_tune", spy)
    results = run_benchmark(config, tmp_path / "out", with_table)
    assert seen == [(10, None), (10, 0.2), (10, 0.2)]
    assert set(results) == {Cell(name, "desk", 0) for name in methods}
    with pytest.raises(ValueError, match="validation_fraction and max_validation both choose"):
        desk(max_train=10, validation_fraction=0.2, max_validation=3)


def test_a_start_that_is_fitted_anew_has_the_settings_of_its_entry(
    content: Any, desk: Any, write: Any
) -> None:
    desk(max_train=10, validation_fraction=0.2)
    content["methods"]["scaled"] = {"method": "temperature", "start": "blob", "num_samples": [2]}
    with pytest.raises(
        ValueError, match=r"methods.scaled fits blob again, since it holds out a part"
    ):
        read_config(write(content))
    content["methods"]["scaled"]["init_scale"] = 0.09
    assert read_config(write(content)).methods["scaled"].start == "blob"
