from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from matplotlib.image import imread
from transformers import BertConfig, BertForMaskedLM

from blob_pyro.benchmark import Cell, cell_run, read_config, run_benchmark
from blob_pyro.diagnostics import METRICS
from blob_pyro.recipe import Recipe
from blob_pyro.recipe.predictions import load_predictions


@pytest.fixture
def config(content: Any, write: Any) -> Any:
    return read_config(write(content))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all fits."""
    seeds: list[int] = []
    fine_tune = cell_run.fine_tune

    def counted(*args: Any, recipe: Recipe, **options: Any) -> Any:
        seeds.append(recipe.training.seed)
        return fine_tune(*args, recipe=recipe, **options)

    monkeypatch.setattr(cell_run, "fine_tune", counted)
    return seeds


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_cell_is_a_file_and_a_finished_benchmark_does_nothing(
    finished: Any, unchanged_files: Any, fits: list[int]
) -> None:
    config, folder, results = finished
    made = files(folder)
    assert len(results) == len([name for name in made if name.startswith("cells/")]) == 12
    assert run_benchmark(config, folder, Path(unchanged_files[1])) == results
    assert not fits
    assert files(folder) == made


def test_metrics_are_those_of_the_draws_that_are_kept(finished: Any) -> None:
    _, folder, results = finished
    metrics = results[Cell("blob", "openbookqa", 1)]["metrics"]
    assert set(metrics) == {"0", "2"}
    kept = [
        load_predictions(folder / "draws" / f"blob-openbookqa-seed1-{name}-draws2.npz")
        for name in ("openbookqa", "ai2_arc_easy")
    ]
    assert kept[0].logits.shape == (2, 5, 4)
    assert metrics["2"]["openbookqa"] == kept[0].metrics()
    outside = dict(metrics["2"]["ai2_arc_easy"])
    scores = {name: outside.pop(name) for name in (*outside,) if name.startswith("auroc")}
    expected = kept[0].ood_auroc(kept[1])
    assert scores.pop("auroc") == expected.pop("entropy")
    assert scores == {f"auroc_{name}": value for name, value in expected.items()}
    assert set(expected) == {"mutual_information", "max_probability"}
    assert "auroc_mutual_information" not in metrics["0"]["ai2_arc_easy"]
    assert outside == kept[1].metrics()
    assert set(outside) == set(METRICS)
    card = (folder / "posteriors" / "blob-openbookqa-seed1" / "README.md").read_text()
    for part in ("| method | blob |", "| measured on | openbookqa, test, 5 examples |"):
        assert part in card
    assert f"| nll | {metrics['2']['openbookqa']['nll']:.4f} |" in card


def test_a_benchmark_stopped_by_sigkill_goes_on_where_it_was(
    content: Any, write: Any, questions: str, tmp_path: Path, fits: list[int]
) -> None:
    # Steps enough that the process is found at work.
    content["training"]["num_steps"] = 10
    path, data, folder = write(content), Path(questions), tmp_path / "killed"
    command = [sys.executable, "-m", "blob_pyro", "benchmark", str(path)]
    options = ["--data-dir", questions, "--output-dir", str(folder)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [*command, *options],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and len(list(folder.glob("cells/*.json"))) < 2:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = {file: (file.read_bytes(), file.stat().st_mtime_ns)
                for file in (folder / "cells").glob("*.json")}  # fmt: skip
    assert 2 <= len(finished) < 12
    resumed = run_benchmark(read_config(path), folder, data)
    assert len(fits) == 12 - len(finished)
    for file, (text, time_ns) in finished.items():
        assert (file.read_bytes(), file.stat().st_mtime_ns) == (text, time_ns)
    whole = run_benchmark(read_config(path), tmp_path / "whole", data)
    assert {cell: result["metrics"] for cell, result in resumed.items()} == {
        cell: result["metrics"] for cell, result in whole.items()
    }


def test_two_processes_share_the_cells(
    config: Any, questions: str, tmp_path: Path, fits: list[int]
) -> None:
    first = next(iter(cells := sorted(_names(config))))
    lock = FileLock(tmp_path / "claims" / f"{first}.lock")
    (tmp_path / "claims").mkdir()
    lock.acquire()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_benchmark, config, tmp_path, Path(questions))
        while len([*(tmp_path / "cells").glob("*.json")]) < len(cells) - 1:
            time.sleep(0.02)
        # All but the one that another is at; it goes on when that one is dead.
        time.sleep(0.1)
        assert not running.done()
        assert not (tmp_path / "cells" / f"{first}.json").exists()
        lock.release()
        assert len(running.result()) == len(fits) == len(cells)


def _names(config: Any) -> list[str]:
    return [
        f"{method}-{task}-seed{seed}"
        for method in config.methods
        for task in config.tasks
        for seed in config.seeds
    ]


def test_an_encoder_is_compared_on_texts(
    content: Any, write: Any, tokenizer: Any, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(vocab_size=len(tokenizer), intermediate_size=24, pad_token_id=1, **sizes)
    BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    recorded = Path(__file__).parents[1] / "tasks" / "recorded" / "glue" / "rte" / "train.jsonl"
    place = tmp_path / "data" / "glue" / "rte"
    place.mkdir(parents=True)
    for split in ("train", "validation"):
        shutil.copy(recorded, place / f"{split}.jsonl")
    content.update(model=str(tmp_path / "bert"), dtype="bfloat16", tasks={"glue_rte": {}})
    del content["max_test"]
    content["seeds"] = [0]
    results = run_benchmark(read_config(write(content)), tmp_path / "out", tmp_path / "data")
    assert set(results) == {Cell(name, "glue_rte", 0) for name in ("zero_shot", "mle", "blob")}
    kept = load_predictions(tmp_path / "out" / "draws" / "blob-glue_rte-seed0-glue_rte-draws2.npz")
    assert kept.logits.shape == (2, 3, 2)
    assert kept.ids.tolist() == ["0", "1", "2"]


def test_cells_of_other_settings_are_refused(
    finished: Any, content: Any, write: Any, questions: str
) -> None:
    config, folder, _ = finished
    content["model"] = config.model
    content["methods"]["blob"]["init_scale"] = 0.1
    with pytest.raises(
        ValueError, match=r"blob-openbookqa-seed0.json was made with other settings"
    ):
        run_benchmark(read_config(write(content)), folder, Path(questions))


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_cell_is_named(damage: str, config: Any, questions: str, tmp_path: Path) -> None:
    path = tmp_path / "cells" / "mle-openbookqa-seed0.json"
    path.parent.mkdir()
    path.write_text(damage)
    with pytest.raises(ValueError, match=r"mle-openbookqa-seed0.json cannot be used \(.*delete it"):
        run_benchmark(config, tmp_path, Path(questions))


def test_tables_hold_a_row_for_each_number_of_draws(finished: Any) -> None:
    config, folder, _ = finished
    markdown = (folder / "tables.md").read_text()
    assert markdown.count("## trained on") == markdown.count("## differences") == 3
    assert markdown.count("## what it costs") == 2
    assert "## trained on openbookqa (4 labels), tested on ai2_arc_easy, 2 seeds" in markdown
    rows = [line.split("|")[1].strip() for line in markdown.splitlines() if line.startswith("| ")]
    assert rows[:25] == ["", "zero_shot", "mle", "blob, K = 0", "blob, K = 2"] * 5
    assert rows[25:] == ["", "zero_shot", "blob, K = 0", "blob, K = 2"] * 3
    assert (folder / "tables.tex").read_text().count("\\begin{tabular}") == 5
    for task in config.tasks:
        assert imread(folder / "plots" / f"{task}.png").std() > 0
    cell = json.loads((folder / "cells" / "mle-openbookqa-seed0.json").read_text())
    assert cell["train_seconds"] > 0


def test_texts_of_other_classes_are_told_apart_and_not_marked(
    content: Any, write: Any, questions: str, tmp_path: Path
) -> None:
    content["tasks"] = {"helpdesk": {"max_train": 60, "ood": ["helpdesk_out_of_scope", "reviews"]}}
    content["methods"] = {"mle": {"method": "mle", "num_samples": [0]}}
    content["seeds"] = [0]
    results = run_benchmark(read_config(write(content)), tmp_path / "out", Path(questions))
    metrics = results[Cell("mle", "helpdesk", 0)]["metrics"]["0"]
    assert set(metrics["helpdesk"]) == set(METRICS)
    assert (
        set(metrics["reviews"])
        == set(metrics["helpdesk_out_of_scope"])
        == {
            "auroc",
            "auroc_max_probability",
        }
    )
    kept = load_predictions(tmp_path / "out" / "draws" / "mle-helpdesk-seed0-reviews-draws0.npz")
    assert set(kept.labels) == {-1}
    assert (tmp_path / "out" / "plots" / "helpdesk.png").stat().st_size > 0
