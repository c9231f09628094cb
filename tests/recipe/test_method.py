from __future__ import annotations

from typing import Literal

import pytest

from blob_pyro.recipe import METHODS, Method, find_method
from blob_pyro.settings import Settings


class Options(Settings):
    rate: float = 0.1
    kind: Literal["full", "low"] = "full"


METHOD = Method("m", options=Options)


def test_options_are_the_defaults_and_what_was_given() -> None:
    assert METHOD.chosen_options({"rate": 1}) == Options(rate=1.0, kind="full")


def test_methods_are_found_by_their_name() -> None:
    assert all(find_method(name).name == name for name in METHODS)
    with pytest.raises(ValueError, match=r"method='BLoB' is unknown; use one of .*'blob'"):
        find_method("BLoB")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_is_trained_or_starts_from_another(method: Method) -> None:
    if method.starts_from is None:
        assert method.from_fits is None
        return
    assert method.starts_from in METHODS
    assert (method.from_fit is None) != (method.from_fits is None)
    assert method.objective == "none"
    if method.from_fits is not None:
        assert method.options().num_members > 1
