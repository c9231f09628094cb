"""The layers below the first latent one, which give all draws the same and so run once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any, cast

import torch
from torch import nn

from blob_pyro.lora import LoraSite
from blob_pyro.lora.projection import in_this_thread
from blob_pyro.models.example_axes import beside_texts


class SharedTrunk:
    """What the layers below the first latent one make of a batch, kept from the first pass on.

    Parameters
    ----------
    net
        A network; its layers stand in one ``nn.ModuleList``.
    sites
        Its latent sites by name.

    Attributes
    ----------
    layers : list of nn.Module
        The layers below; empty if there are none, or the network is not of this kind.
    proved : dict
        Kind of a batch to whether a trial gave the logits of full passes.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("llama", "SEQ_CLS", layers_to_transform=[1])
    >>> len(SharedTrunk(net, SequenceClassifier(net, num_data=2).sites).layers)
    1
    """

    def __init__(self, net: nn.Module, sites: Mapping[str, LoraSite]) -> None:
        self.layers = _layers_below(net, {cast(nn.Module, site.layer) for site in sites.values()})
        self.proved: dict[tuple[object, ...], bool] = {}
        self._output: Any = None

    @property
    def is_watched(self) -> bool:
        """Whether hooks read or change what a layer gives, in each pass."""
        return any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.layers)

    def forget(self) -> None:
        """Let the batch go; the next pass may be of another one."""
        self._output = None

    @contextmanager
    def shared(self, num_draws: int) -> Iterator[None]:
        """Let a pass of the network run the layers below, or if they have run pass them by.

        Parameters
        ----------
        num_draws
            How often the pass has the rows of the batch; once, if nothing is kept yet.
        """
        top, kept, thread = self.layers[-1], self._output, get_ident()
        if kept is None:
            handle = top.register_forward_hook(in_this_thread(self._keep))
            try:
                yield
            finally:
                handle.remove()
            return
        overridden = {layer: layer.__dict__.get("forward") for layer in self.layers}
        hidden = kept[0] if isinstance(kept, tuple) else kept
        tiled = _like(kept, hidden.repeat(num_draws, *[1] * (hidden.dim() - 1)))

        def answering(layer: nn.Module) -> Callable[..., Any]:
            own = layer.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                # Bare calls in other threads, and copies made meanwhile, are no part of this.
                if kept is not self._output or get_ident() != thread:
                    return own(*args, **kwargs)
                given = args[0] if args else kwargs["hidden_states"]
                return tiled if layer is top else _like(kept, given)

            return forward

        try:
            for layer in overridden:
                layer.forward = answering(layer)
            yield
        finally:
            for layer, forward in overridden.items():
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    def _keep(self, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        self._output = output


def _like(output: Any, hidden: torch.Tensor) -> Any:
    """Give hidden states in the form of a layer's output, which may be a tuple that begins so."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _layers_below(net: nn.Module, latent: set[nn.Module]) -> list[nn.Module]:
    modules = [*net.modules()]
    # A compiled network may hold the layers' code as it was; pictures may come one by one.
    if any(getattr(module, "_compiled_call_impl", None) for module in modules):
        return []
    if not latent.isdisjoint(beside_texts(net)):
        return []
    for layers in modules:
        if isinstance(layers, nn.ModuleList):
            held = [latent & {*layer.modules()} for layer in layers]
            if set().union(*held) == latent:
                return [*layers][: next(i for i, found in enumerate(held) if found)]
    return []
