"""A method's settings against the function that it calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from blob_pyro.posthoc import calibrate, distill, ivon, laplace, swag, tfb
from blob_pyro.recipe import METHODS

FUNCTIONS = {
    "distilled": distill,
    "ivon": ivon,
    "lap": laplace,
    "swag": swag,
    "temperature": calibrate,
    "tfb": tfb,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_are_those_of_the_function(name: str) -> None:
    function: Callable[..., Any] = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    options = dict(METHODS[name].chosen_options({}))
    shared = options.keys() & parameters.keys()
    assert shared
    assert {key: options[key] for key in shared} == {key: parameters[key].default for key in shared}
