from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.benchmark import (
    BenchmarkConfig,
    Cell,
    MethodConfig,
    TaskConfig,
    read_config,
    run_benchmark,
)
from blob_pyro.benchmark.data import (
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
            "openbookqa has no validation examples beside those of the test; s",
        ),
        (
            TaskConfig(max_train=3, max_validation=4),
            "has 6 training examples, too few for 4 to stop by and 3 o",
        ),
        (TaskConfig(max_validation=6), "too few for 6 to stop by and some others to fit"),
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
