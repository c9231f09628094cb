"""The cost of predicting with posterior draws: K against one pass, and together against in turn.

On SmolLM2-135M: K = 10 draws one after the other against one deterministic pass of the same
batches; then the same K draws in one forward pass against the loop, by batch size.
``--smoke-test`` predicts one short batch with a tiny network.
"""

import argparse
import operator
from functools import partial

from paired_comparison import (
    LABEL_TOKENS,
    begin,
    median_interval,
    paired,
    print_table,
    random_batch,
    seconds_in_turns,
    smollm2_network,
    tiny_network,
)

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.training import flush_denormals

NUM_DRAWS = 10


def compare_batch_size(
    model: LabelTokenClassifier, batch_size: int, num_batches: int, tokens: int, repeats: int
) -> list[str]:
    """Time the three ways to predict the same batches; give a row of the table."""
    guide = LowRankGaussianGuide(model)
    batches = [random_batch(model.network, batch_size, tokens) for _ in range(num_batches)]
    predict = partial(posterior_predictive, model, guide, batches, progress=False)
    seconds = seconds_in_turns(
        {
            "one pass": partial(predict, 0),
            "loop": partial(predict, NUM_DRAWS),
            "together": partial(predict, NUM_DRAWS, parallel=True),
        },
        repeats,
        warm_up=1,
    )
    cells = [str(batch_size), f"{median_interval(seconds['one pass'])[0]:.3f}"]
    for name, baseline in (("loop", "one pass"), ("together", "one pass"), ("together", "loop")):
        ratios = paired(operator.truediv, seconds[name], seconds[baseline])
        median, low, high = median_interval(ratios)
        cells.append(f"{median:.3f} ({low:.3f} to {high:.3f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--num-batches", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.smoke_test:
        options.batch_sizes, options.num_batches, options.tokens, options.repeats = [2], 1, 4, 2
    flush_denormals()
    begin(options.seed)
    net = tiny_network() if options.smoke_test else smollm2_network()
    model = LabelTokenClassifier(net, LABEL_TOKENS, num_data=500)
    size = (options.num_batches, options.tokens, options.repeats)
    rows = [compare_batch_size(model, batch_size, *size) for batch_size in options.batch_sizes]
    print(
        f"Texts of {options.tokens} tokens, batches: {options.num_batches}, K = {NUM_DRAWS}, "
        f"{options.repeats} rounds; medians of\npaired ratios (95 %). Wanted: loop / one pass at "
        "most 10.3, together / loop at most 1.\n"
    )
    ratios = ["loop / one pass", "together / one pass", "together / loop"]
    print_table(["batch size", "one pass, seconds", *ratios], rows)


if __name__ == "__main__":
    main()
