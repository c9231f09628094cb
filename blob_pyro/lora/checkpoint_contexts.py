"""Gradient checkpointing that recomputes with the right draw."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from blob_pyro.lora.projection import LoraProjection
from blob_pyro.lora.sites import lora_sites
from blob_pyro.poutine import AppliedWeight


class CheckpointContexts:
    """Make ``torch.utils.checkpoint`` recompute each segment with the draw it first ran with.

    Needed where several draws are made before one backward pass; see
    ``BayesianLora.gradient_checkpointing_enable``, which passes it on.  An object and no
    closure, so that ``copy.deepcopy`` of a network makes it follow the copy.

    Parameters
    ----------
    net
        A PEFT model that went through :func:`bayesianize`.
    adapter
        Name of the Bayesian adapter.
    """

    def __init__(self, net: nn.Module, adapter: str = "default") -> None:
        self._projections = [site.projection for site in lora_sites(net, adapter).values()]

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Give the contexts of the forward pass and of the recomputation: a ``context_fn``."""
        applied = [projection._applied for projection in self._projections]
        return nullcontext(), reinstalled(self._projections, applied)


@contextmanager
def reinstalled(
    projections: Sequence[LoraProjection], applied: Sequence[AppliedWeight | None]
) -> Iterator[None]:
    """Make projections apply something else for a while."""
    current = [projection._applied for projection in projections]
    _set_applied(projections, applied)
    try:
        yield
    finally:
        _set_applied(projections, current)


def _set_applied(
    projections: Sequence[LoraProjection], applied: Sequence[AppliedWeight | None]
) -> None:
    for projection, function in zip(projections, applied, strict=True):
        projection._applied = function
