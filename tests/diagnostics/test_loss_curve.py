from types import SimpleNamespace

import numpy as np
import pytest

from blob_pyro.diagnostics import loss_curve


def test_columns_are_the_records() -> None:
    rows = [SimpleNamespace(step=s, loss=s + 1, nll=2 * s, kl=9, kl_weight=0.5) for s in (4, 5)]
    curve = loss_curve(rows)
    assert [*curve] == ["step", "loss", "nll", "kl", "kl_weight"]
    np.testing.assert_array_equal(curve["step"], [4, 5])
    np.testing.assert_array_equal(curve["nll"], [8, 10])


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no records of steps; wanted at least one"):
        loss_curve([])
