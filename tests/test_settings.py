from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from blob_pyro.settings import Settings


class Inner(Settings):
    rate: float = Field(1.0, gt=0)
    """Rate of something."""

    count: int | None = None


class Outer(Settings):
    names: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    kind: Literal["a", "b"] = "a"
    options: Mapping[str, Any] = Field(default_factory=dict)
    inner: Inner = Inner()


def test_a_list_and_nested_entries_become_settings() -> None:
    found = Outer(names=["x", "y"], inner={"rate": 2})  # type: ignore[arg-type]
    assert (found.names, found.inner) == (("x", "y"), Inner(rate=2.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": "x"}, "names='x': give a list"),
        ({"names": [1]}, "names.0=1: give a text"),
        ({"kind": "c"}, "kind='c': use 'a' or 'b'"),
        ({"options": 3}, "options=3: give 'name: value' entries"),
        ({"inner": {"rate": 0}}, "inner: rate=0: give a number above 0"),
        ({"inner": {"rate": "1"}}, "inner: rate='1': give a number"),
        ({"inner": {"rate": True}}, "inner: rate=True: give a number"),
        ({"inner": {"rate": math.nan}}, "inner: rate=nan: give a"),
        ({"inner": {"count": 2.0}}, "inner: count=2.0: give a whole number"),
        ({"inner": {"count": True}}, "inner: count=True: give a whole number"),
        ({"inner": {"cuont": 1}}, "inner: 'cuont' is no setting; did you mean 'count'"),
        ({"x": 1}, "'x' is no setting; known are"),
        ({"kind": "c", "x": 1}, "kind='c': use 'a' or 'b'; 'x' is no setting"),
    ],
)
def test_a_wrong_entry_is_named_with_its_path(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Outer(**values)


@pytest.mark.parametrize(
    "copy", [lambda s: s.changed(rate=-1.0), lambda s: s.model_copy(update={"rate": -1.0})]
)
def test_a_copy_is_checked_too(copy: Any) -> None:
    with pytest.raises(ValueError, match=r"rate=-1.0: give a number above 0"):
        copy(Inner())
    assert Inner().changed(count=3) == Inner(count=3)


def test_a_setting_knows_its_description() -> None:
    assert Inner.model_fields["rate"].description == "Rate of something."
