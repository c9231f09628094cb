"""The files of a PEFT adapter, and tensors read from a file that may be anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blob_pyro.models import BayesianLora

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"


def write_adapter(folder: Path, model: BayesianLora, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the network's adapter, with ordinary weights in the place of the latent ones.

    Parameters
    ----------
    folder
        An existing folder.
    model
        The Bayesian model; its ``lora_B`` and other point estimates are written too.
    weights
        Site name to ``lora_A``, ``r x n``.
    """
    peft_config = copy.copy(model.network.peft_config[model.adapter])
    peft_config.inference_mode = True
    peft_config.save_pretrained(str(folder))
    write_tensors(folder / ADAPTER_FILE, _adapter_tensors(model, weights))


def _adapter_tensors(
    model: BayesianLora, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    state = dict(model.network.state_dict())
    for site, weight in weights.items():
        state[f"{site.removesuffix('.weight')}.{model.adapter}.weight"] = weight
    # "auto" would ask the Hub for the base model's vocabulary, which fails without a network.
    return get_peft_model_state_dict(
        model.network, state_dict=state, adapter_name=model.adapter, save_embedding_layers=False
    )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors from any device as a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file, or raise a ``ValueError`` that names it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write_tensors(path, {"x": torch.zeros(2)})
    >>> read_tensors(path)
    {'x': tensor([0., 0.])}
    """
    try:
        return load_file(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    # Depending on what is wrong, safetensors names a dtype that torch lacks, or a size.
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore the folder from a copy") from error


def check_tensors(
    path: Path,
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    what: str,
) -> None:
    """Raise a ``ValueError`` if a file's tensors have other names or shapes than are needed.

    Parameters
    ----------
    path
        The file that ``found`` comes from.
    found, expected
        Tensors by name.
    what
        What ``expected`` belongs to, for the message.
    """
    if expected.keys() != found.keys():
        different = sorted(expected.keys() ^ found.keys())
        raise ValueError(
            f"{path} and {what} have different sites ({different[0]!r} is in one of them only); "
            "they do not belong together"
        )
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)} but {what} needs "
                f"{tuple(expected[name].shape)}; the ranks differ, so they do not belong together"
            )
