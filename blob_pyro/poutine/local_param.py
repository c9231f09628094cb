"""A ``pyro.param`` statement for a parameter that its module owns."""

import weakref

import torch
from pyro.poutine.runtime import effectful
from torch.distributions import constraints


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
