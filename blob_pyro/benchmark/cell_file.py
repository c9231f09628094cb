"""A finished cell of a benchmark as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blob_pyro.atomic_file import atomic_file

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
    try:
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        found = results["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, to run the cell again"
        ) from error
    if found != settings:
        raise ValueError(
            f"{path} was made with other settings; give another --output-dir, or delete it "
            "to run the cell again"
        )
    return results


def write_results(path: Path, results: Results) -> None:
    """Write a finished cell, all of it or nothing."""
    with atomic_file(path) as file:
        file.write(json.dumps(results, indent=2).encode())
