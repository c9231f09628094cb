"""The files of a PEFT adapter, and tensors read from a file that may be anything."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blob_pyro.models import BayesianLora
from blob_pyro.networks import pooling_of

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
    peft_config = cast(LoraConfig, copy.copy(model.network.peft_config[model.adapter]))
    peft_config.inference_mode = True
    peft_config.base_model_name_or_path = base_name(model)
    if pooling_of(model.network.get_base_model()) == "mean":
        # Whole names, which no network that pools otherwise has: PEFT then refuses the adapter.
        peft_config.target_modules = _adapted_layers(model)
    for name, value in vars(peft_config).items():
        # PEFT would write a set in an order that changes from process to process.
        if isinstance(value, set):
            setattr(peft_config, name, sorted(value))
    peft_config.save_pretrained(str(folder))
    write_tensors(folder / ADAPTER_FILE, _adapter_tensors(model, weights))


def base_name(model: BayesianLora) -> str | None:
    """Name a base model so that every working directory finds it: a folder by its whole path."""
    name = model.network.peft_config[model.adapter].base_model_name_or_path
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _adapted_layers(model: BayesianLora) -> list[str]:
    return [
        name
        for name, module in model.network.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and model.adapter in module.r
    ]


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
    try:
        save_file(on_cpu, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise a ``ValueError`` that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); is {path.parent} the right folder?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore the folder from a copy") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object); restore the folder from a copy")
    return content


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever a file's content breaks into a ``ValueError`` that names the file.

    For code that is not ours and checks little: a bad setting surfaces anywhere in it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(path.parent) in str(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} holds what cannot be used ({reason}); restore the folder from a copy"
        ) from error


def read_lora_config(folder: Path) -> LoraConfig:
    """Read the configuration of a LoRA adapter for training, or raise a ``ValueError``.

    Other kinds of adapters are refused, some of which load code or tokenizers that they name.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json(path)
    if content.get("peft_type") != "LORA":
        raise ValueError(f"{path} is not the configuration of a LoRA adapter (peft_type LORA)")
    with blaming(path):
        config = LoraConfig.from_peft_type(**content)
    # Saved for prediction, but whoever has the posterior may go on training it.
    config.inference_mode = False
    return config


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
    if not path.is_file():
        raise ValueError(f"{path} is missing; is {path.parent} the right folder?")
    with blaming(path):
        return load_file(path)


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
