"""The handlers as verbs: context managers that are decorators too, as in ``pyro.poutine``."""

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from blob_pyro.poutine.flipout_messenger import FlipoutMessenger, Per

Program = TypeVar("Program", bound=Callable[..., Any])


@overload
def flipout(fn: None = None, *, per: Per = "example") -> FlipoutMessenger: ...
@overload
def flipout(fn: Program, *, per: Per = "example") -> Program: ...
def flipout(fn: Program | None = None, *, per: Per = "example") -> FlipoutMessenger | Program:
    r"""Decorrelate the noise between the examples of a batch without drawing more weights.

    For a drawn weight :math:`A` with mean :math:`M`, an example's projection becomes
    :math:`x M^\top + ((x \circ s)(A - M)^\top) \circ t` with random signs :math:`s \in \{-1, 1\}^n`
    and :math:`t \in \{-1, 1\}^r`.  Because the guide is symmetric about :math:`M`, each example
    still sees a draw from it, so the gradient of the ELBO stays unbiased and its variance falls
    with the batch size.

    Parameters
    ----------
    fn
        A model (or any Pyro program) to decorate; leave it out for a context manager.
    per
        ``"example"``: all tokens of an example share their signs, as one weight function must.
        ``"token"``: new signs for each token, as in the paper's code; this breaks the correlation
        between tokens and biases the gradient.  Kept for comparison.

    Returns
    -------
    FlipoutMessenger or callable
        A context manager, or ``fn`` under the handler.

    Raises
    ------
    ValueError
        If ``per`` is unknown, or a site's guide states no centre.

    Examples
    --------
    >>> import torch
    >>> from blob_pyro.poutine import apply_weight
    >>> with flipout():
    ...     pyro_program = "svi.step(**batch) goes here"
    >>> flipout(per="word")
    Traceback (most recent call last):
        ...
    ValueError: flipout: per='word' is unknown; use 'example' or 'token'

    References
    ----------
    Wen et al., "Flipout: Efficient Pseudo-Independent Weight Perturbations on Mini-Batches", ICLR
    2018, equation 4; Wang et al., "BLoB", NeurIPS 2024, section 3.3.
    """
    messenger = FlipoutMessenger(per)
    return messenger if fn is None else cast(Program, messenger(fn))
