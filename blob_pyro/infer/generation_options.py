"""Which ways of decoding the average of several draws can follow."""

from collections.abc import Mapping
from typing import Any

import torch

Options = Mapping[str, Any]

_ONE_TEXT = "decode greedily, or by do_sample=True"
# What an option means where it is set, and the values with which it does nothing.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), f"beams would have to be moved in the draws' caches; {_ONE_TEXT}"),
    "num_beam_groups": ((None, 1), f"beams would have to be moved in all caches; {_ONE_TEXT}"),
    "constraints": ((None,), f"constraints need beams; {_ONE_TEXT}"),
    "force_words_ids": ((None,), f"forced words need beams; {_ONE_TEXT}"),
    "penalty_alpha": ((None, 0, 0.0), f"contrastive search reads hidden states; {_ONE_TEXT}"),
    "dola_layers": ((None,), f"DoLa reads hidden states; {_ONE_TEXT}"),
    "guidance_scale": ((None, 1, 1.0), "guidance runs the network twice a token; leave it out"),
    "negative_prompt_ids": ((None,), "guidance runs the network twice a token; leave it out"),
    "assistant_model": ((None,), f"an assistant's tokens are checked several at once; {_ONE_TEXT}"),
    "assistant_early_exit": ((None,), f"drafts are checked several at once; {_ONE_TEXT}"),
    "prompt_lookup_num_tokens": ((None,), f"drafts are checked several at once; {_ONE_TEXT}"),
    "use_mtp": ((None, False), f"drafts are checked several at once; {_ONE_TEXT}"),
    "custom_generate": ((None,), f"code of its own may do anything; {_ONE_TEXT}"),
    "past_key_values": ((None,), "each draw has a cache of its own; pass the whole prompt"),
    "cache_implementation": ((None, "dynamic"), "a cache of fixed size has no room for the draws"),
    "return_dict_in_generate": (
        (None, False),
        "generate returns a Generation: tokens, total and epistemic uncertainty; leave it out",
    ),
}  # fmt: skip


def check_options(network: Any, options: Options) -> None:
    """Raise a ``ValueError`` where a text could not be written from the average, with the way out.

    Parameters
    ----------
    network
        A network of Transformers.
    options
        Arguments of its ``generate``.
    """
    kind = type(network).__name__
    if not getattr(network, "can_generate", bool)():
        raise ValueError(f"{kind} writes no text; generate needs a causal language model")
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"{kind} is an encoder-decoder, whose encoder would run once for all draws; generate "
            "needs a causal language model"
        )
    for name, (harmless, reason) in _REFUSED.items():
        value = option(network, options, name)
        if not any(value is each or value == each for each in harmless):
            shown = value if isinstance(value, str | int | float) else type(value).__name__
            raise ValueError(f"{name}={shown}: {reason}")
    for name, value in options.items():
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            raise ValueError(
                f"{name} is a tensor of shape {tuple(value.shape)}, which is not known to follow "
                "the rows of the prompts; pass input_ids and attention_mask only"
            )


def option(network: Any, options: Options, name: str) -> Any:
    """Give what holds for an option: as passed, of a passed configuration, or the network's own."""
    if name in options:
        return options[name]
    for config in (options.get("generation_config"), network.generation_config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None
