from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger

from blob_pyro.poutine import apply_weight


@pytest.mark.parametrize("inner", [(), (3,), (3, 2)], ids=["rows", "tokens", "heads"])
def test_a_shared_draw_is_one_linear_map(inner: tuple[int, ...]) -> None:
    weight, x = torch.randn(2, 4), torch.randn(5, *inner, 4)
    project = apply_weight(weight, x.shape[:-1])
    torch.testing.assert_close(project(x), x @ weight.T)


@pytest.mark.parametrize("inner", [(), (3,), (3, 2)], ids=["rows", "tokens", "heads"])
@pytest.mark.parametrize("plate", [(3,), (3, 1)], ids=["draws", "draws under a data plate"])
def test_each_draw_owns_consecutive_rows(plate: tuple[int, ...], inner: tuple[int, ...]) -> None:
    weight, x = torch.randn(*plate, 2, 4), torch.randn(3 * 5, *inner, 4)
    project = apply_weight(weight, x.shape[:-1])
    of_draw = [x[5 * k : 5 * (k + 1)] @ weight.reshape(3, 2, 4)[k].T for k in range(3)]
    torch.testing.assert_close(project(x), torch.cat(of_draw))


@pytest.mark.parametrize("rows", [5, 10])
def test_an_input_that_was_not_tiled_is_refused(rows: int) -> None:
    project = apply_weight(torch.randn(5, 1, 2, 4), torch.Size([15, 3]))
    with pytest.raises(ValueError, match=rf"got {rows} rows, but 5 weights were drawn for 15"):
        project(torch.randn(rows, 3, 4))


def test_a_handler_may_answer() -> None:
    class Twice(Messenger):
        def _pyro_apply_weight(self, msg: Any) -> None:
            weight, shape = msg["args"]
            assert (msg["name"], shape) == ("site", torch.Size([1]))
            msg["value"], msg["done"] = lambda x: 2 * x @ weight.T, True

    weight, x = torch.randn(2, 4), torch.randn(1, 4)
    with Twice():
        project = apply_weight(weight, x.shape[:-1], name="site")
    torch.testing.assert_close(project(x), 2 * x @ weight.T)
    torch.testing.assert_close(apply_weight(weight, x.shape[:-1], name="site")(x), x @ weight.T)
