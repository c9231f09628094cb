"""One cell of a benchmark: which method, task and seed, and what its results depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.files.atomic import atomic_file
from blob_pyro.networks.reading import reading
from blob_pyro.recipe import Recipe

Results = dict[str, Any]


def finished_results(path: Path, settings: str) -> Results:
    """Read a finished cell.

    Parameters
    ----------
    path
        Its file.
    settings
        Its fingerprint.

    Returns
    -------
    dict
        What :func:`blob_pyro.benchmark.run_cell` gave.

    Raises
    ------
    ValueError
        If the file is damaged, or was made with other settings.
    """
    with reading(path, "delete it, to run the cell again"):
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        found = results["settings"]
    if found != settings:
        raise ValueError(f"{path} was made with other settings; delete it, or give another folder")
    return results


def write_results(path: Path, results: Results) -> None:
    """Write a finished cell, all of it or nothing."""
    with atomic_file(path) as file:
        file.write(json.dumps(results, indent=2).encode())


@dataclass(frozen=True)
class Cell:
    """A method, a task and a seed of a benchmark.

    Further members of an ensemble are cells that are fitted to the same examples with other seeds,
    and not evaluated.
    """

    method: str
    task: str
    seed: int
    member: int = 0

    def __str__(self) -> str:
        member = f"-member{self.member}" if self.member else ""
        return f"{self.method}-{self.task}-seed{self.seed}{member}"

    def path(self, folder: Path) -> Path:
        """Give the file that a finished cell is."""
        return folder / "cells" / f"{self}.json"

    def posterior(self, folder: Path) -> Path:
        """Give the folder that a finished cell's posterior is in."""
        return folder / "posteriors" / str(self)

    def recipe(self, config: BenchmarkConfig) -> Recipe:
        """Give the settings of its fit."""
        recipe = config.methods[self.method].recipe
        return recipe.changed(seed=self.seed).member(self.member)

    def starts(self, config: BenchmarkConfig) -> list[Cell]:
        """Give the cells whose posteriors it starts from.

        What holds examples out of those that all methods have can't start from a fit that saw them.
        """
        start = config.methods[self.method].start
        held_out = self.recipe(config).needs_validation
        if start is None or (held_out and config.tasks[self.task].validation_fraction):
            return []
        count = len(self.recipe(config).start_recipes())
        members = range(self.member, self.member + count)
        return [Cell(start, self.task, self.seed, member) for member in members]

    def fingerprint(self, config: BenchmarkConfig) -> str:
        """Hash the settings that this cell's results depend on."""
        tables = {
            name: config.tables[name].model_dump(mode="json")
            for name in config.evaluated_on(self.task)
            if name in config.tables
        }
        settings = {
            "model": config.model,
            **({"tables": tables} if tables else {}),
            "task": config.tasks[self.task].model_dump(mode="json"),
            "method": config.methods[self.method].model_dump(mode="json"),
            "max_test": config.max_test,
            "dtype": config.dtype,
            "split": config.split,
            "starts": [cell.fingerprint(config) for cell in self.starts(config)],
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
