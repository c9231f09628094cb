from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.training import TrainingConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps=0: give a number of at least 1"),
        ({"batch_size": 0}, "batch_size=0: give a number of at least 1"),
        ({"validate_every": 0}, "validate_every=0: give a number of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: give a number above 0"),
        ({"scale_learning_rate": float("inf")}, "scale_learning_rate=inf: give a finite number"),
        ({"kl_learning_rate": 0.0}, "kl_learning_rate=0.0: give a number above 0"),
        ({"scale_updates": "adam"}, "scale_updates='adam': use 'kl_optim' or 'both'"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0: give a number above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: give a number of at least 0"),
        ({"warmup_fraction": 2.0}, "warmup_fraction=2.0: give a number of at most 1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


def test_the_rates_rise_in_a_share_of_the_steps() -> None:
    assert TrainingConfig(num_steps=5000).num_warmup_steps == 300
    assert TrainingConfig(num_steps=5000, warmup_fraction=0).num_warmup_steps == 0


def test_the_length_of_a_run_follows_from_the_data_unless_it_is_given() -> None:
    default = TrainingConfig()
    # 224 sqrt(N) examples, eight a step, and 200 steps at least.
    assert default.for_data(400).num_steps == 28 * 20
    assert default.for_data(400, num_processes=2).num_steps == 14 * 20
    assert default.changed(accumulation_steps=2).for_data(400).num_steps == 14 * 20
    assert default.for_data(3).num_steps == 200
    assert TrainingConfig(num_steps=7).for_data(400).num_steps == 7
    assert default.for_data(400).num_warmup_steps == round(0.06 * 560)
    with pytest.raises(ValueError, match="num_steps=None follows from the data; call for_data"):
        _ = default.num_warmup_steps
