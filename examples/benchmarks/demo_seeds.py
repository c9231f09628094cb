"""The demonstration over several seeds: mean and standard deviation of every number.

Each finished seed is one JSON file in ``--output-dir``, so an interrupted run goes on where it was.
``--smoke-test`` takes MiniLM, one seed, one step and one draw.
"""

import argparse
import json
from pathlib import Path

import pandas

from blob_pyro.benchmark.demo import demonstrate, text
from blob_pyro.networks import MINILM, SMOLLM2


def seed_metrics(seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the demonstration with a seed, or read what an earlier run left."""
    path = options.output_dir / f"seed{seed}-{options.split}.json"
    if not path.exists():
        found = demonstrate(
            options.model,
            num_steps=options.num_steps,
            num_samples=options.num_samples,
            seed=seed,
            split=options.split,
        )
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({name: row.metrics() for name, row in found.rows.items()}))
        draft.rename(path)
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--output-dir", type=Path, default=Path("demo_seeds"))
    options = parser.parse_args()
    if options.smoke_test:
        options.model = MINILM
        options.seeds = options.num_steps = options.num_samples = 1
    options.output_dir.mkdir(parents=True, exist_ok=True)
    metrics = [seed_metrics(seed, options) for seed in range(options.seeds)]
    runs = pandas.concat([pandas.DataFrame(each) for each in metrics]).groupby(level=0, sort=False)
    mean, deviation = runs.mean().map(text), runs.std(ddof=1).fillna(0.0).map(text)
    print((mean + " ± " + deviation).to_markdown(disable_numparse=True))


if __name__ == "__main__":
    main()
