"""Posteriors on disk: a valid PEFT adapter, and beside it what makes it a posterior."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blob_pyro import guides, lora, models
from blob_pyro.base_model import base_identity, load_causal_lm, load_sequence_classifier
from blob_pyro.guides import LoraGuide
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior, Prior
from blob_pyro.models import Classifier
from blob_pyro.version import __version__

FORMAT_VERSION = 1
CONFIG_FILE = "posterior_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
POSTERIOR_FILE = "posterior.safetensors"
_HASHED_FILES = ("adapter_config.json", ADAPTER_FILE, POSTERIOR_FILE)
_LIBRARIES = ("torch", "pyro-ppl", "peft", "transformers")


def save_posterior(
    folder: str | Path,
    model: Classifier,
    guide: LoraGuide,
    *,
    task: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted posterior as a folder that is also a PEFT adapter.

    ``PeftModel.from_pretrained(base, folder)`` gives the posterior mean.  A whole new folder is
    written beside the old one and then renamed, so that a crash leaves one or the other; the
    configuration holds the checksums of the other files.

    Parameters
    ----------
    folder
        Where to; made if absent, and an older posterior there is replaced.
    model, guide
        The fitted program.
    task
        Anything JSON-able to keep with it, such as class names and prompt.

    Raises
    ------
    ValueError
        If ``folder`` is a file, or a folder that holds something other than a posterior, or the
        guide is not one of :mod:`blob_pyro.guides`.
    """
    folder = Path(folder)
    check_output(folder)
    if getattr(guides, type(guide).__name__, None) is not type(guide):
        raise ValueError(
            f"a {type(guide).__name__} cannot be saved, since load_posterior makes the guides of "
            "blob_pyro.guides only; save its state_dict() beside the adapter yourself"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(draft, model, guide, dict(task or {}))
        _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_output(folder: Path) -> None:
    """Raise a ``ValueError`` if a posterior cannot be saved there without losing something."""
    if folder.is_file() or (folder.is_dir() and not _may_replace(folder)):
        raise ValueError(
            f"{folder} exists and is no posterior; give a new folder, so that nothing is lost"
        )
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{folder} cannot be made, since {above} is a file")


def _swap(draft: Path, folder: Path) -> None:
    """Put a whole draft in the folder's place; whatever else the folder held stays in it."""
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = draft.with_name(f"{draft.name}-old")
    os.rename(folder, old)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    for path in old.iterdir():
        if path.name not in (*_HASHED_FILES, CONFIG_FILE):
            os.rename(path, folder / path.name)
    shutil.rmtree(old)


def _may_replace(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists() or not any(folder.iterdir())


def _write(draft: Path, model: Classifier, guide: LoraGuide, task: dict[str, Any]) -> None:
    peft_config = copy.copy(model.network.peft_config[model.adapter])
    peft_config.inference_mode = True
    peft_config.save_pretrained(str(draft))
    saved = tuple(getattr(peft_config, "modules_to_save", None) or ())
    save_file(_adapter_tensors(model, guide), draft / ADAPTER_FILE, metadata={"format": "pt"})
    save_file(_posterior_tensors(guide), draft / POSTERIOR_FILE, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "guide": {"class": type(guide).__name__, "arguments": guide.config()},
        "model": {
            "class": type(model).__name__,
            "arguments": model.likelihood_config(),
            "num_data": model.num_data,
            "num_classes": model.num_classes,
            "prior": _prior_record(model.prior),
            "latent": list(model.latent),
            "temperature": model.temperature.tolist(),
        },
        "base_model": {
            "name": peft_config.base_model_name_or_path,
            "saved_modules": sorted(saved),
            **base_identity(model.network.get_base_model(), saved),
        },
        "adapter": {
            "float32": next(iter(guide.mean().values())).dtype == torch.float32,
        },
        "task": task,
        "versions": {"blob-pyro": __version__, **{name: version(name) for name in _LIBRARIES}},
        "sha256": {name: _sha256(draft / name) for name in _HASHED_FILES},
    }
    (draft / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _adapter_tensors(model: Classifier, guide: LoraGuide) -> dict[str, torch.Tensor]:
    state = dict(model.network.state_dict())
    for site, mean in guide.mean().items():
        state[f"{site.removesuffix('.weight')}.{model.adapter}.weight"] = mean
    # "auto" would ask the Hub for the base model's vocabulary, which fails without a network.
    adapter = get_peft_model_state_dict(
        model.network, state_dict=state, adapter_name=model.adapter, save_embedding_layers=False
    )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.items()}


def _posterior_tensors(guide: LoraGuide) -> dict[str, torch.Tensor]:
    # The means are the adapter; whatever else the guide has learned is the rest of the posterior.
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in guide.state_dict().items()
        if not name.startswith("M.")
    }


def load_posterior(
    folder: str | Path, base_model: nn.Module | None = None, *, prior: Prior | None = None
) -> tuple[Classifier, LoraGuide]:
    """Read a posterior that :func:`save_posterior` wrote.

    Parameters
    ----------
    folder
        The folder.
    base_model
        The loaded network that was fine-tuned, without adapter; it is changed in place, as PEFT
        does.  None loads the one that the folder names.
    prior
        Needed only for a posterior that was fitted under a prior of the user's own, which no file
        can hold.

    Returns
    -------
    model, guide
        As they were saved, bit for bit, on the device of ``base_model``.

    Raises
    ------
    ValueError
        If the folder is no posterior, is damaged, comes from a newer format, or was fitted to
        another base model or prior.
    """
    folder = Path(folder)
    config = _read_config(folder)
    network = _base_network(config) if base_model is None else base_model
    _check_base(folder, config, network)
    net = PeftModel.from_pretrained(
        network,
        str(folder),
        is_trainable=True,
        # PEFT's default makes a half-precision adapter a float32 one.
        autocast_adapter_dtype=config["adapter"]["float32"],
    )
    model_class = _known_class(folder, models, config["model"]["class"], Classifier)
    model = model_class(
        net,
        num_data=config["model"]["num_data"],
        prior=_prior(folder, config["model"]["prior"], prior),
        latent=tuple(config["model"]["latent"]),
        **config["model"]["arguments"],
    )
    model.set_temperature(torch.tensor(config["model"]["temperature"], dtype=torch.float64))
    guide_class = _known_class(folder, guides, config["guide"]["class"], LoraGuide)
    guide = guide_class.from_config(model, config["guide"]["arguments"])
    _load_guide(folder, guide)
    model.eval()
    return model, guide


def posterior_task(folder: str | Path) -> dict[str, Any]:
    """Read what was saved as ``task`` with a posterior (class names, prompt, ...)."""
    task: dict[str, Any] = _read_config(Path(folder))["task"]
    return task


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); {folder} is not a posterior that "
            "blob_pyro saved"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore the folder from a copy") from error
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        found = config.get("format_version") if isinstance(config, dict) else None
        raise ValueError(
            f"{path} has format_version={found} but this library reads {FORMAT_VERSION}; use the "
            "version of blob_pyro that wrote it"
        )
    for name, checksum in config["sha256"].items():
        _check_file(folder / name, checksum)
    return config


def _check_file(path: Path, checksum: str) -> None:
    if not path.exists():
        raise ValueError(f"{path} is missing; restore the folder from a copy")
    if _sha256(path) != checksum:
        raise ValueError(
            f"{path} is not the file that was saved (its checksum differs): it was cut short, "
            "changed or taken from elsewhere; restore the folder from a copy"
        )


def _base_network(config: dict[str, Any]) -> nn.Module:
    name = config["base_model"]["name"]
    dtype = getattr(torch, config["base_model"]["dtype"])
    if config["model"]["class"] == "SequenceClassifier":
        return load_sequence_classifier(name, config["model"]["num_classes"], dtype)
    return load_causal_lm(name, dtype)


def _check_base(folder: Path, config: dict[str, Any], network: nn.Module) -> None:
    if isinstance(network, PeftModel):
        raise ValueError(
            "base_model is a PeftModel already; give the network without adapter, such as "
            "AutoModelForCausalLM.from_pretrained(...)"
        )
    wanted = config["base_model"]
    found = base_identity(network, wanted["saved_modules"])
    # Values can only be compared at the precision that they were hashed at.
    same_dtype = found["dtype"] == wanted["dtype"]
    for key in ("shapes", "values") if same_dtype else ("shapes",):
        if found[key] != wanted[key]:
            raise ValueError(
                f"{folder} was fitted to the base model {wanted['name']!r}, and the {key} of this "
                f"{type(network).__name__}'s weights differ from it; load that base model"
            )


def _known_class(folder: Path, room: Any, name: str, base: type) -> Any:
    found = getattr(room, name, None) if name in room.__all__ else None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"{folder / CONFIG_FILE} asks for the class {name!r}, which {room.__name__} does not "
            "have; use the version of blob_pyro that wrote it"
        )
    return found


def _prior_record(prior: Prior) -> dict[str, Any]:
    # A subclass may do anything else, which its arguments do not tell.
    if type(prior) in (NormalPrior, HierarchicalNormalPrior):
        known = cast(NormalPrior, prior)
        return {"class": type(prior).__name__, "arguments": known.config()}
    return {"class": getattr(prior, "__qualname__", type(prior).__qualname__), "arguments": None}


def _prior(folder: Path, record: dict[str, Any], given: Prior | None) -> Prior:
    if record["arguments"] is None:
        if given is None:
            raise ValueError(
                f"{folder} was fitted under the prior {record['class']}, which is not one of "
                "blob_pyro's; pass prior=... to load_posterior"
            )
        return given
    if given is not None and _prior_record(given) != record:
        raise ValueError(
            f"{folder} was fitted under {record['class']}({record['arguments']}) but prior is "
            f"{given}; leave prior out"
        )
    prior: Prior = _known_class(folder, lora, record["class"], object)(**record["arguments"])
    return prior


def _load_guide(folder: Path, guide: LoraGuide) -> None:
    path = folder / POSTERIOR_FILE
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore the folder from a copy") from error
    expected = {name: t for name, t in guide.state_dict().items() if not name.startswith("M.")}
    if expected.keys() != tensors.keys():
        different = sorted(expected.keys() ^ tensors.keys())
        raise ValueError(
            f"{path} and the adapter beside it have different sites ({different[0]!r} is in one "
            "of them only); they were not saved together"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)} but the adapter beside it "
                f"needs {tuple(expected[name].shape)}; the ranks differ, so they were not saved "
                "together"
            )
    guide.load_state_dict(tensors, strict=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
