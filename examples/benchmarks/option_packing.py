"""What packing a question's options into one row saves, against one row an option.

Scores ARC-Easy questions with SmolLM2-135M both ways, in turns, and compares the logits.  Give the
folder with the data (``FOLDER/ai2_arc/ARC-Easy/test.jsonl``), or leave it out to read the Hub.
``--smoke-test`` scores two made-up questions with a tiny network.
"""

import argparse
import operator
from pathlib import Path

import torch
from paired_comparison import (
    begin,
    median_interval,
    paired,
    print_table,
    seconds_in_turns,
    smollm2_network,
    tiny_network,
    with_interval,
)

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import OptionLikelihood
from blob_pyro.networks import SMOLLM2, load_tokenizer
from blob_pyro.tasks import TASKS, OptionCollator
from blob_pyro.training import flush_denormals

TASK = TASKS["ai2_arc_easy"]
MADE_UP = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]]),
    "attention_mask": torch.ones(2, 6, dtype=torch.long),
    "option_ids": torch.tensor([[1, 1, 2], [1, 2, 2]]),
    "labels": torch.tensor([0, 1]),
}


def arc_easy(data_dir: Path | None, limit: int, batch_size: int) -> list[dict[str, torch.Tensor]]:
    questions = TASK.load("test", data_dir=data_dir, limit=limit).data
    # It reads alike long ones together.
    return list(OptionCollator(load_tokenizer(SMOLLM2)).loader(questions, batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--num-questions", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    flush_denormals()
    begin(options.seed)
    if options.smoke_test:
        net, batches, options.repeats = tiny_network(), [MADE_UP], 2
    else:
        net = smollm2_network()
        batches = arc_easy(options.data_dir, options.num_questions, options.batch_size)
    model = OptionLikelihood(net, TASK.num_options, num_data=500)
    guide = LowRankGaussianGuide(model)

    def scores(packs: bool) -> torch.Tensor:
        model.packs = packs
        return posterior_predictive(model, guide, batches, 0, progress=False)["logits"]

    packed, alone = scores(True), scores(False)
    offered = packed.isfinite()
    assert torch.equal(offered, alone.isfinite())
    difference = (packed[offered] - alone[offered]).abs().max().item()
    seconds = seconds_in_turns(
        {"packed": lambda: scores(True), "alone": lambda: scores(False)}, options.repeats, 1
    )
    ratios = paired(operator.truediv, seconds["alone"], seconds["packed"])
    print(f"{packed.shape[1]} questions, {options.repeats} rounds; wanted: at least 3 times.\n")
    print_table(
        ["packed, seconds", "one row an option / packed (95 %)", "largest difference of a logit"],
        [
            [
                f"{median_interval(seconds['packed'])[0]:.3f}",
                with_interval(median_interval(ratios), digits=2),
                f"{difference:.1e}",
            ]
        ],
    )


if __name__ == "__main__":
    main()
