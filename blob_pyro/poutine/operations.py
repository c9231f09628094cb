"""Statements that handlers see: how to apply a drawn weight, and a module's own parameter."""

import weakref
from collections.abc import Callable
from functools import partial

import torch
from pyro.poutine.runtime import effectful
from torch.distributions import constraints

AppliedWeight = Callable[[torch.Tensor], torch.Tensor]


class GroupedWeight:
    """One weight for each group of rows of the input: ``x -> x A_g^T``.

    Parameters
    ----------
    weight
        Tensor of shape ``(..., r, n)``; the leading dimensions, flattened, are the groups (draws,
        or draws times examples).  Consecutive rows of the input belong to one group.
    rows
        Rows that the input will have, or a divisor of their number (a network may split each into
        several).

    Raises
    ------
    ValueError
        When it is called, if there are several groups and the input has another number of rows.
    """

    def __init__(self, weight: torch.Tensor, rows: int) -> None:
        self.weight = weight if weight.dim() == 3 else weight.reshape(-1, *weight.shape[-2:])
        self.rows = rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Project ``(rows, ..., n)`` to ``(rows, ..., r)``."""
        groups, rank, in_features = self.weight.shape
        if groups == 1:
            return torch.nn.functional.linear(x, self.weight[0])
        if x.shape[0] % self.rows:
            raise ValueError(
                f"a LoRA layer got {x.shape[0]} rows, but {groups} weights were drawn for "
                f"{self.rows}: repeat the batch once for each draw, as many times as draw() says"
            )
        grouped = x.reshape(groups, -1, in_features)
        return torch.bmm(grouped, self.weight.mT).reshape(*x.shape[:-1], rank)


def tells_rows_apart(applied: AppliedWeight) -> bool:
    """Say whether rows of the input may get different weights."""
    return not (isinstance(applied, GroupedWeight) and len(applied.weight) == 1)


def along(axis: int | None, applied: AppliedWeight, name: str) -> AppliedWeight:
    """Make a function of rows work on an input that has them on another axis.

    Where the axis is unknown (None), the function refuses to be called, by the site's name.

    Examples
    --------
    >>> import torch
    >>> project = GroupedWeight(torch.stack([torch.zeros(1, 3), torch.ones(1, 3)]), rows=2)
    >>> along(1, project, "site")(torch.ones(4, 2, 3))[..., 0].unique(dim=0)
    tensor([[0., 3.]])
    """
    if axis == 0:
        return applied
    if axis is None:
        return partial(_refuse, name)
    return lambda x: applied(x.transpose(0, axis)).transpose(0, axis)


def _refuse(name: str, x: torch.Tensor) -> torch.Tensor:
    raise ValueError(
        f"site {name!r}: text alone never reaches its layer (input {(*x.shape,)}), so the axis of "
        "its examples is unknown; leave it out of target_modules, or use one draw a pass "
        "(parallel=False, flipout=False)"
    )


@effectful(type="apply_weight")
def apply_weight(weight: torch.Tensor, shape: torch.Size) -> AppliedWeight:
    """Turn a drawn weight into the function that a projection applies to its input.

    Without a handler it is the shared draw: all rows of one draw use the same weight.  Handlers
    with a method ``_pyro_apply_weight`` (such as :func:`blob_pyro.poutine.flipout`) answer
    otherwise.

    Parameters
    ----------
    weight
        Drawn weight of shape ``(..., r, n)``, any floating dtype; leading dimensions are draws.
    shape
        ``(rows, tokens)`` of the batch that the network will see, the draws already tiled into the
        rows: draw ``k`` owns the rows ``k * B`` to ``(k + 1) * B - 1``.

    Returns
    -------
    AppliedWeight
        A function from ``(rows, ..., n)`` to ``(rows, ..., r)``.

    Examples
    --------
    >>> import torch
    >>> project = apply_weight(torch.ones(2, 3), torch.Size([1, 4]))
    >>> project(torch.ones(1, 4, 3)).shape
    torch.Size([1, 4, 2])
    """
    return GroupedWeight(weight, shape[0])


def local_param(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    """State a module's own parameter to Pyro without putting it into the global parameter store.

    :class:`pyro.infer.SVI` learns which tensors to optimise from the ``param`` statements of a
    trace.  ``pyro.param`` would also bind the name globally, so that a second model of the same
    names silently trained the first one's tensors; this statement is seen by every handler, but
    the value stays the module's.

    Parameters
    ----------
    name
        Name of the statement in the trace.
    parameter
        The unconstrained parameter, any shape, dtype and device.

    Returns
    -------
    torch.Tensor
        A view of ``parameter`` that gradients flow through.

    Examples
    --------
    >>> import pyro, torch
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> trace = pyro.poutine.trace(lambda: local_param("weight", weight)).get_trace()
    >>> trace.nodes["weight"]["value"].unconstrained() is weight
    True
    >>> "weight" in pyro.get_param_store()
    False
    """
    value = parameter.view_as(parameter)
    # Pyro's own convention: a param site's value leads back to the tensor that is optimised.
    value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    return _statement(
        name, value, constraint=constraints.real, event_dim=parameter.dim(), name=name
    )


@effectful(type="param")
def _statement(name: str, value: torch.Tensor, **_options: object) -> torch.Tensor:
    return value
