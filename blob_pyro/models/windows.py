"""How far a network's attention reaches."""

import sys
from typing import Any, cast

from torch import nn

_NAMES = ("window", "chunk", "local_attention")


def shortest_window(network: nn.Module) -> int:
    """Give the fewest tokens that a layer may see at once, as far as the configuration says.

    Parameters
    ----------
    network
        A network of Transformers, with or without PEFT.

    Returns
    -------
    int
        ``sys.maxsize`` if the configuration names no window.

    Examples
    --------
    >>> from transformers import MistralConfig
    >>> network = nn.Module()
    >>> network.config = MistralConfig(sliding_window=12)
    >>> shortest_window(network)
    12
    """
    settings = cast(Any, network).config.get_text_config().to_dict()
    found = [
        length
        for name, value in settings.items()
        if any(part in name for part in _NAMES)
        for length in (value if isinstance(value, list | tuple) else [value])
        if type(length) is int and length > 0
    ]
    return min(found, default=sys.maxsize)
