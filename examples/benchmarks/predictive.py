"""The cost of predicting with posterior draws: one after the other, together, and plain LoRA.

On SmolLM2-135M, by batch size and number of draws K: the loop over draws, all draws in one forward
pass (``parallel=K``) and as many as pay (``parallel=True``), each as a ratio to one deterministic
pass of an unmodified PEFT network with the same head over the same batches; and as many as pay
where only the last quarter of the layers is latent, as a ratio to the loop.  K = 0 is the posterior
mean.  The last line is the slope of each column over K: what one more draw costs.
``--smoke-test`` predicts one short batch with a tiny network.
"""

import argparse
import copy
import operator
import statistics
from collections.abc import Callable
from functools import partial

import torch
from paired_comparison import (
    LABEL_TOKENS,
    begin,
    median_interval,
    paired,
    print_table,
    random_batch,
    round_slopes,
    seconds_in_turns,
    shared_copy,
    smollm2_network,
    tiny_network,
    with_interval,
)
from peft import PeftModel, get_peft_model
from plain_and_bayesian import plain_predictions

from blob_pyro.guides import DirichletGuide, LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.training import flush_denormals

PLAIN, MEAN = "plain LoRA", ("posterior mean", 0)
# A pass is short, and all ratios are to it: it has several turns a round.
PLAIN_PASSES = 9
LOOP, ONE_PASS, CHOSEN = "loop", "`parallel=K`", "`parallel=True`"
LATE, DISTILLED = "last quarter latent", "distilled"
# A way to predict, and a number of draws.
Variant = tuple[str, int]


def variants(
    net: PeftModel,
    batch_size: int,
    num_batches: int,
    tokens: int,
    num_draws: list[int],
    num_late: int | None = None,
) -> dict[Variant, Callable[[], object]]:
    batches = [random_batch(net, batch_size, tokens) for _ in range(num_batches)]
    model = LabelTokenClassifier(shared_copy(net), LABEL_TOKENS, num_data=500)
    predict = partial(
        posterior_predictive, model, LowRankGaussianGuide(model), batches, progress=False
    )
    expected, found = plain_predictions(net, batches), predict(0)["logits"][0]
    tolerance = 1e-4 if net.dtype == torch.float32 else 0.05
    assert torch.allclose(found, expected.to(found), rtol=tolerance, atol=tolerance)
    ways = {
        (way, count): partial(predict, count, parallel=parallel)
        for count in num_draws
        for way, parallel in ((LOOP, False), (ONE_PASS, count), (CHOSEN, True))
    }
    late = LabelTokenClassifier(last_layers(net, num_late), LABEL_TOKENS, num_data=500)
    predict_late = partial(
        posterior_predictive, late, LowRankGaussianGuide(late), batches, progress=False
    )
    ways |= {(LATE, count): partial(predict_late, count) for count in num_draws}
    student = LabelTokenClassifier(shared_copy(net), LABEL_TOKENS, num_data=500)
    distilled = partial(
        posterior_predictive, student, DirichletGuide(student), batches, 0, progress=False
    )
    plain = partial(plain_predictions, net, batches)
    passes = {(PLAIN, turn): plain for turn in range(PLAIN_PASSES)}
    return {**passes, MEAN: partial(predict, 0), **ways, (DISTILLED, 0): distilled}


def last_layers(net: PeftModel, count: int | None = None) -> PeftModel:
    """Give the network anew, with an adapter in its last layers only, a quarter of them."""
    config = copy.deepcopy(net.peft_config["default"])
    number = net.config.num_hidden_layers
    config.layers_to_transform = [*range(number - (count or max(1, number // 4)), number)]
    return get_peft_model(shared_copy(net).unload(), config)


def plain_seconds(seconds: dict[Variant, list[float]]) -> list[float]:
    """Give the median of plain LoRA's passes in each round."""
    turns = zip(*(seconds[PLAIN, turn] for turn in range(PLAIN_PASSES)), strict=True)
    return [statistics.median(turn) for turn in turns]


def table_rows(seconds: dict[Variant, list[float]], num_draws: list[int]) -> list[list[str]]:
    """Give a row for each number of draws, and the slopes."""
    plain = plain_seconds(seconds)

    def ratios(variant: Variant, baseline: list[float] = plain) -> list[float]:
        return paired(operator.truediv, seconds[variant], baseline)

    slopes = ["slope over K"]
    rows = [["0", with_interval(median_interval(ratios(MEAN)), 2), "", "", "", ""]]
    for count in num_draws:
        cells = [ratios((way, count)) for way in (LOOP, ONE_PASS, CHOSEN)]
        cells += [ratios((way, count), seconds[LOOP, count]) for way in (CHOSEN, LATE)]
        rows.append([str(count), *(with_interval(median_interval(cell), 2) for cell in cells)])
    for way in (LOOP, ONE_PASS, CHOSEN):
        rounds = zip(*(ratios((way, count)) for count in num_draws), strict=True)
        slopes.append(with_interval(median_interval(round_slopes(num_draws, list(rounds)))))
    return [*rows, [*slopes, "", ""]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke-test", action="store_true")
    parser.add_argument("--num-draws", type=int, nargs="+", default=[1, 5, 10, 30])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--num-batches", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    if options.smoke_test:
        options.batch_sizes, options.tokens, options.num_draws, options.repeats = [2], 4, [1, 3], 2
    flush_denormals()
    begin(options.seed, options.device)
    net = tiny_network() if options.smoke_test else smollm2_network(getattr(torch, options.dtype))
    net = net.to(options.device)
    for batch_size in options.batch_sizes:
        ways = variants(net, batch_size, options.num_batches, options.tokens, options.num_draws)
        seconds = seconds_in_turns(ways, options.repeats, warm_up=1)
        one_pass = statistics.median(plain_seconds(seconds))
        print(
            f"Batches of {batch_size} texts of {options.tokens} tokens, {options.num_batches} in "
            f"all, {options.repeats} rounds; medians of paired\nratios (95 %). One pass of plain "
            f"LoRA: {one_pass:.3f} s. Wanted: loop at most 1.03 K.\n"
        )
        header = ["K", *(f"{way} / plain" for way in (LOOP, ONE_PASS, CHOSEN))]
        header += [f"{way} / {LOOP}" for way in (CHOSEN, LATE)]
        print_table(header, table_rows(seconds, options.num_draws))


if __name__ == "__main__":
    main()
