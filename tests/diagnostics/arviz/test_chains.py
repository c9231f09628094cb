import numpy as np
import pytest

from blob_pyro.diagnostics.arviz.chains import as_fits, check_shape, stack


def test_one_fit_is_one_chain() -> None:
    fit = {"a": np.zeros(3)}
    assert as_fits("posterior", fit) == [fit]
    assert as_fits("posterior", (fit, fit)) == [fit, fit]


def test_chains_come_first() -> None:
    fits = [{"a": np.full((2, 5), chain)} for chain in range(3)]
    stacked = stack("a", fits)
    assert stacked.shape == (3, 2, 5)
    np.testing.assert_array_equal(stacked[:, 0, 0], [0, 1, 2])


def test_no_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="predictive holds no fit; wanted one mapping"):
        as_fits("predictive", [])


def test_differing_names_are_refused() -> None:
    message = r"posterior of chain 1 has the names \['b'\]; wanted those of chain 0, \['a'\]"
    with pytest.raises(ValueError, match=message):
        as_fits("posterior", [{"a": [0.0]}, {"b": [0.0]}])


def test_differing_shapes_are_refused() -> None:
    message = r"'a' of chain 1 has shape \(3,\); wanted that of chain 0, \(2,\). Use the same"
    with pytest.raises(ValueError, match=message):
        stack("a", [{"a": np.zeros(2)}, {"a": np.zeros(3)}])


@pytest.mark.parametrize("shape", [(), (2,), (2, 4), (3, 2)])
def test_wrong_leading_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'a' has shape .*start with \(chain=2, draw=3\)"):
        check_shape("a", np.zeros(shape), {"chain": 2, "draw": 3})


def test_right_leading_dimensions_pass() -> None:
    check_shape("a", np.zeros((2, 3, 9)), {"chain": 2, "draw": 3})
