"""Which axis of each latent layer's input the examples stand on, found by a trial."""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from blob_pyro.lora import LoraSite
from blob_pyro.lora.projection import in_this_thread
from blob_pyro.lora.sites import reinstalled
from blob_pyro.models.text_trials import made_up_texts
from blob_pyro.models.without_dropout import without_dropout
from blob_pyro.poutine.operations import GroupedWeight

# Tokens of five texts: the last is the first one again, the others differ in length too.
_LENGTHS = (11, 7, 9, 10, 11)


def example_axes(net: PeftModel, sites: Mapping[str, LoraSite]) -> dict[str, int | None]:
    """Find out on which axis of each latent layer's input the examples of a batch stand.

    A layer has them first (``B x T x n``, or the tokens of one after those of the other, ``BT x
    n``) or second (``T x B x n``).  The network reads five made-up texts, of which the last is the
    first one again: the examples stand where the input of a layer shows that.

    Parameters
    ----------
    net
        A PEFT model.  One that takes no ``input_ids``, as networks that are not of Transformers, is
        not tried: there the examples come first.
    sites
        Its latent sites by name.

    Returns
    -------
    dict
        Site name to 0 or 1; None for a layer that text never reaches.

    Raises
    ------
    ValueError
        If the examples can't be told apart in some layer: one that sees rows shared by all
        examples, or a choice of their tokens.
    """
    texts = _five_texts(net)
    if texts is None:
        return dict.fromkeys(sites, 0)
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in sites}
    axes: dict[str, set[int | None]] = {name: set() for name in sites}

    def note(name: str, _layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        shapes[name].append(tuple(inputs[0].shape))
        axes[name].add(_axis(inputs[0]))

    projections = [site.projection for site in sites.values()]
    starts = [GroupedWeight(projection.initial_weight, 1) for projection in projections]
    try:
        # No Pyro statement is made, so that other threads and handlers do not notice.
        with ExitStack() as hooks, torch.no_grad(), without_dropout(net):
            for name, site in sites.items():
                layer = cast(nn.Module, site.layer)
                hooks.enter_context(
                    layer.register_forward_pre_hook(in_this_thread(partial(note, name)))
                )
            with reinstalled(projections, starts):
                net(**texts)
    except Exception as error:
        raise ValueError(
            f"{type(net.get_base_model()).__name__} can't read five made-up texts ({error}), "
            "so the axis of the examples in its layers is unknown; use flipout=False, one draw "
            "a pass (parallel=False) and a method other than Laplace"
        ) from error
    for name, found in axes.items():
        if found not in ({0}, {1}, set()):
            raise ValueError(_refusal(name, shapes[name]))
    return {name: found.pop() if found else None for name, found in axes.items()}


def beside_texts(net: nn.Module) -> set[nn.Module]:
    """Give the modules of a network that texts never reach, such as those that read pictures.

    They are what Transformers does not count as the decoder.  What it may have left out without
    having pictures (a head) is reached by texts, as a trial shows.
    """
    base = cast(Any, net).get_base_model()
    if not isinstance(base, PreTrainedModel) or base.config.is_encoder_decoder:
        return set()
    return {*base.modules()} - {*base.get_decoder().modules()}


def _refusal(name: str, shapes: Iterable[tuple[int, ...]]) -> str:
    saw = " and ".join(map(str, shapes))
    return (
        f"layer {name.removesuffix('.weight')!r} saw {saw} in a trial with {len(_LENGTHS)} texts "
        f"of up to {max(_LENGTHS)} tokens, where the texts can't be told apart, so no text gets a "
        "weight or a Jacobian of its own; use flipout=False, one draw a pass (parallel=False), a "
        "method other than Laplace, or leave the layer out of target_modules"
    )


def _axis(x: torch.Tensor) -> int | None:
    axes = [axis for axis in range(min(2, x.dim() - 1)) if _shows_texts(x.transpose(0, axis))]
    return axes[0] if len(axes) == 1 else None


def _shows_texts(rows: torch.Tensor) -> bool:
    if rows.shape[0] % len(_LENGTHS) or not len(rows):
        return False
    first, *others, last = rows.reshape(len(_LENGTHS), -1).float()
    # Rounding may differ between the rows of a batch, in half precision much.
    return all(10 * (last - first).norm() < (other - first).norm() for other in others)


def _five_texts(net: PeftModel) -> dict[str, torch.Tensor] | None:
    base = net.get_base_model()
    if not isinstance(base, PreTrainedModel) or base.device.type == "meta":
        return None
    if "input_ids" not in inspect.signature(base.forward).parameters:
        return None
    texts = made_up_texts(base, _LENGTHS)
    texts["input_ids"][-1] = texts["input_ids"][0]
    return texts
