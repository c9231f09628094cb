"""The room stands alone: no model library, and nothing heavy before it is used."""

import subprocess
import sys

import pytest

import blob_pyro.diagnostics


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_works_without_pyro_and_peft() -> None:
    run(
        "import sys\n"
        "sys.modules['pyro'] = sys.modules['peft'] = None\n"
        "import blob_pyro.diagnostics as d\n"
        "assert d.summarize([[[0.0, 1.0]]], [1])['accuracy'] == 1.0\n"
        "assert d.auroc([0.0], [1.0]) == 1.0\n"
    )


@pytest.mark.parametrize("name", ["matplotlib", "arviz", "torchmetrics", "torch", "transformers"])
def test_import_is_cheap(name: str) -> None:
    run(f"import sys, blob_pyro.diagnostics; assert {name!r} not in sys.modules")


def test_every_public_name_exists() -> None:
    for name in blob_pyro.diagnostics.__all__:
        assert getattr(blob_pyro.diagnostics, name).__doc__
