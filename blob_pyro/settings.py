"""The base class of settings: they check themselves, and say in plain words what is wrong."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

# What pydantic's kinds of errors mean to somebody who writes YAML.
_WANTED = {
    "bool_type": "give true or false",
    "dict_type": "give 'name: value' entries",
    "finite_number": "give a finite number",
    "float_type": "give a number",
    "int_from_float": "give a whole number",
    "int_type": "give a whole number",
    "mapping_type": "give 'name: value' entries",
    "model_type": "give 'name: value' entries",
    "string_type": "give a text",
    "list_type": "give a list, such as [a, b]",
    "tuple_type": "give a list, such as [a, b]",
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give a number of at least {ge}",
    "less_than": "give a number below {lt}",
    "less_than_equal": "give a number of at most {le}",
    "string_pattern_mismatch": "use letters, digits, spaces and . + - _",
    "literal_error": "use {expected}",
    "too_short": "give at least {min_length}",
}
# Entries that one message names, and how deep it shows their values: YAML's may have no end.
_MOST = 3
_SHORT = Repr()
_SHORT.maxlevel = 2


class Settings(BaseModel):
    """Settings of strict types that cannot be changed; an unknown name is refused.

    A docstring under a setting describes it, here and wherever the setting is listed.

    Raises
    ------
    ValueError
        If a value is not what its setting takes, with the path of the setting.

    Examples
    --------
    >>> class Path(Settings):
    ...     num_steps: int = 200
    >>> Path(num_steps=2.5)
    Traceback (most recent call last):
    ...
    ValueError: num_steps=2.5: give a whole number
    >>> Path(num_step=3)
    Traceback (most recent call last):
    ...
    ValueError: 'num_step' is no setting; did you mean 'num_steps'?
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(in_plain_words(error, type(self).model_fields)) from None

    def changed(self, **values: Any) -> Self:
        """Give a copy with other values, checked like the first ones."""
        return type(self)(**{**dict(self), **values})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Do as :meth:`changed` does, where pydantic itself would not check the values."""
        return self.changed(**(update or {}))


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 and people do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Read YAML without Python's own tags.

    Examples
    --------
    >>> load_yaml("{kl_scale: 1e-3, target_modules: [q_proj]}")
    {'kl_scale': 0.001, 'target_modules': ['q_proj']}
    """
    return yaml.load(text, Loader=_Loader)


def in_plain_words(error: ValidationError, known: Iterable[str] | None = None) -> str:
    """Say what each wrong entry is, and what it should be.

    Parameters
    ----------
    error
        What pydantic found.
    known
        Names of the settings, to suggest one in the place of an unknown name; None for a file that
        nobody writes by hand.

    Returns
    -------
    str
        A sentence for each of the first entries, with its path.
    """
    entries = error.errors()
    names = None if known is None else list(known)
    sentences = [_sentence(entry, names) for entry in entries[:_MOST]]
    more = [f"and {len(entries) - _MOST} more"] if len(entries) > _MOST else []
    return "; ".join([*sentences, *more])


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Say that a name is no setting, and which ones are near.

    Examples
    --------
    >>> unknown_name("rnak", ["rank", "alpha"])
    "'rnak' is no setting; did you mean 'rank'?"
    """
    near = get_close_matches(name, known, n=3)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = f"known are {[*known]}" if known else "there are none"
    return f"{name!r} is no setting; {hint}"


def _sentence(entry: Any, known: list[str] | None) -> str:
    kind, path = entry["type"], ".".join(map(str, entry["loc"]))
    if kind == "extra_forbidden":
        return f"{path} is unknown" if known is None else unknown_name(path, known)
    if kind == "missing":
        return f"{path} is missing"
    context = entry.get("ctx", {})
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    # A message of pydantic's own may hold the value, braces and all.
    wanted = _WANTED[kind].format(**context) if kind in _WANTED else entry["msg"]
    return f"{path}={_SHORT.repr(entry['input'])}: {wanted}"
