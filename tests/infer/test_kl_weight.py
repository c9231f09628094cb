from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

from blob_pyro.infer import kl_weight, rescaled_num_batches

SCHEDULES: list[Any] = ["blob", "blundell", "uniform"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_batches", [1, 2, 7, 1100, 10**6])
def test_the_weights_of_a_cycle_sum_to_one(num_batches: int, schedule: Any) -> None:
    weights = [kl_weight(step, num_batches, schedule) for step in range(num_batches)]
    assert min(weights) >= 0
    # Each weight is rounded by at most two units in the last place, and fsum rounds once.
    assert abs(math.fsum(weights) - 1) < 1e-15


@pytest.mark.parametrize("num_batches", [1, 2, 3, 7, 20])
def test_small_cycles_have_the_exact_values(num_batches: int) -> None:
    total = 2**num_batches - 1
    for i in range(1, num_batches + 1):
        exact = {
            "blob": Fraction(2 ** (i - 1), total),
            "blundell": Fraction(2 ** (num_batches - i), total),
            "uniform": Fraction(1, num_batches),
        }
        for schedule in SCHEDULES:
            got = kl_weight(i - 1, num_batches, schedule)
            assert got == pytest.approx(float(exact[schedule]), rel=4e-16, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_repeats_each_cycle(schedule: Any) -> None:
    cycles = [[kl_weight(7 * k + i, 7, schedule) for i in range(7)] for k in (0, 1, 5)]
    assert cycles[0] == cycles[1] == cycles[2]


@pytest.mark.parametrize("num_batches", [1100, 10**6])
def test_long_cycles_neither_overflow_nor_vanish(num_batches: int) -> None:
    last = num_batches - 1
    for back, share in enumerate((0.5, 0.25, 0.125)):
        assert kl_weight(last - back, num_batches, "blob") == share
        assert kl_weight(back, num_batches, "blundell") == share
    assert kl_weight(0, num_batches, "blob") == kl_weight(last, num_batches, "blundell") == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, "blob"), "num_batches=0: a cycle needs at least one batch"),
        ((0, -3, "uniform"), "num_batches=-3: a cycle needs at least one batch"),
        ((0, 1.5, "uniform"), "num_batches=1.5: a cycle needs at least one batch"),
        ((-1, 4, "blob"), "step=-1: steps are counted from 0"),
        ((0, 4, "linear"), "schedule='linear' is unknown; choose one of \\('blob'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kl_weight(*arguments)


@pytest.mark.parametrize(
    ("num_data", "batch_size", "gamma", "expected"),
    # 100 * N ** (pi / gamma) / B, by hand: 500 ** 0.3927 = 11.480, 128 ** 0.3927 = 6.722.
    [(500, 4, 8.0, 286), (128, 4, 8.0, 168), (1, 4, 8.0, 25), (10, 1000, 8.0, 1)],
)
def test_the_papers_cycle(num_data: int, batch_size: int, gamma: float, expected: int) -> None:
    assert rescaled_num_batches(num_data, batch_size, gamma) == expected


def test_the_papers_cycle_shortens_with_gamma() -> None:
    assert rescaled_num_batches(500, 4) == rescaled_num_batches(500, 4, 8.0)
    assert rescaled_num_batches(500, 4, 16.0) < rescaled_num_batches(500, 4, 4.0)
