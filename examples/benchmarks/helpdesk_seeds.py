"""The demonstration over several seeds: mean and standard deviation of every metric.

Each finished seed is one JSON file in ``--output-dir``, so an interrupted run goes on where it was.
``--smoke-test`` takes one seed, one step and one draw.
"""

import argparse
import json
import statistics
from pathlib import Path

from blob_pyro.benchmark.demo import BLOB, COLUMNS, compare


def result_of(seed: int, folder: Path, num_steps: int, num_samples: int) -> dict:
    path = folder / f"seed{seed}-steps{num_steps}-draws{num_samples}.json"
    if not path.exists():
        comparison = compare(num_steps=num_steps, num_samples=num_samples, seed=seed)
        draft = path.with_suffix(".tmp")
        record = {"metrics": comparison.metrics, "seconds": comparison.seconds}
        draft.write_text(json.dumps(record, indent=2))
        draft.rename(path)
    return json.loads(path.read_text())


def cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, default=BLOB.training.total_steps)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--output-dir", type=Path, default=Path("helpdesk_seeds"))
    options = parser.parse_args()
    if options.smoke_test:
        options.seeds = options.num_steps = options.num_samples = 1
    options.output_dir.mkdir(parents=True, exist_ok=True)
    results = [
        result_of(seed, options.output_dir, options.num_steps, options.num_samples)
        for seed in range(options.seeds)
    ]
    print("| " + " | ".join(["", *COLUMNS.values()]) + " |")
    print("|" + "---|" * (1 + len(COLUMNS)))
    for row in results[0]["metrics"]:
        cells = [cell([result["metrics"][row][key] for result in results]) for key in COLUMNS]
        print("| " + " | ".join([row, *cells]) + " |")
    print("seconds a seed:", ", ".join(f"{result['seconds']:.0f}" for result in results))


if __name__ == "__main__":
    main()
