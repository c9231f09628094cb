from __future__ import annotations

import pytest

from blob_pyro.training import TrainingConfig


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
