from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.recipe import METHODS, Method, find_method

METHOD = Method("m", options={"rate": 0.1, "size": 3, "per_class": False, "kind": "full"})


def test_options_are_the_defaults_and_what_was_given() -> None:
    chosen = METHOD.chosen_options({"rate": 1, "per_class": True})
    assert chosen == {"rate": 1, "size": 3, "per_class": True, "kind": "full"}
    assert METHOD.options["rate"] == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rat": 1.0}, r"method 'm' has no option 'rat'; it has \['kind', 'per_class', 'rate'"),
        ({"rate": "1"}, r"option 'rate' of method 'm' is '1'; give a number, such as 0.1"),
        ({"rate": True}, "option 'rate' of method 'm' is True; give a number"),
        ({"size": 2.5}, "option 'size' of method 'm' is 2.5; give a whole number, such as 3"),
        (
            {"per_class": 1},
            "option 'per_class' of method 'm' is 1; give true or false, such as",
        ),
        ({"kind": 1}, "option 'kind' of method 'm' is 1; give a name, such as full"),
    ],
)
def test_wrong_options_are_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHOD.chosen_options(given)


def test_methods_are_found_by_their_name() -> None:
    assert all(find_method(name).name == name for name in METHODS)
    with pytest.raises(ValueError, match=r"method='BLoB' is unknown; use one of .*'blob'"):
        find_method("BLoB")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_is_trained_or_starts_from_another(method: Method) -> None:
    if method.starts_from is None:
        assert method.combine is None
        return
    assert method.starts_from in METHODS
    assert (method.finish is None) != (method.combine is None)
    assert method.objective == "none"
    if method.combine is not None:
        assert method.options["num_members"] > 1
