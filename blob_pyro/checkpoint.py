"""Posteriors on disk: a valid PEFT adapter, and beside it what makes it a posterior."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from blob_pyro import guides, lora, models
from blob_pyro.adapter_files import (
    ADAPTER_FILE,
    blaming,
    check_tensors,
    read_lora_config,
    read_tensors,
    write_adapter,
    write_tensors,
)
from blob_pyro.atomic_folder import atomic_folder
from blob_pyro.base_model import base_identity, load_causal_lm, load_sequence_classifier
from blob_pyro.guides import LoraGuide
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior, Prior
from blob_pyro.model_card import CARD_FILE, is_users_card, write_card
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.posterior_config import (
    CONFIG_FILE,
    FORMAT_VERSION,
    HASHED_FILES,
    POSTERIOR_FILE,
    read_posterior_config,
    sha256_of,
)
from blob_pyro.version import __version__

# Public for those who derive from them, but nothing that could have been fitted.
_BASES = (BayesianLora, Classifier, LoraGuide)
_LIBRARIES = ("torch", "pyro-ppl", "peft", "transformers")


def save_posterior(
    folder: str | Path,
    model: BayesianLora,
    guide: LoraGuide,
    *,
    task: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write a fitted posterior as a folder that is also a PEFT adapter.

    ``PeftModel.from_pretrained(base, folder)`` gives the posterior mean.  A whole new folder is
    written beside the old one and then renamed, so that a crash leaves one or the other; the
    configuration holds the checksums of the other files.  A model card, ``README.md``, comes with
    it; one that a user wrote or changed stays as it is.

    Parameters
    ----------
    folder
        Where to; made if absent, and an older posterior there is replaced.
    model, guide
        The fitted program.
    task
        Anything JSON-able to keep with it, such as class names and prompt.
    metrics
        Name to value on test examples, for the model card.

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
    card = () if is_users_card(folder / CARD_FILE) else (CARD_FILE,)
    with atomic_folder(folder, replaces=(*HASHED_FILES, CONFIG_FILE, *card)) as draft:
        config = _write(draft, model, guide, dict(task or {}))
        if card:
            write_card(draft, config, metrics)


def check_output(folder: Path) -> None:
    """Raise a ``ValueError`` if a posterior cannot be saved there without losing something."""
    if folder.is_file() or (folder.is_dir() and not _may_replace(folder)):
        raise ValueError(
            f"{folder} exists and is no posterior; give a new folder, so that nothing is lost"
        )
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{folder} cannot be made, since {above} is a file")


def _may_replace(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists() or not any(folder.iterdir())


def _write(
    draft: Path, model: BayesianLora, guide: LoraGuide, task: dict[str, Any]
) -> dict[str, Any]:
    peft_config = model.network.peft_config[model.adapter]
    saved = tuple(getattr(peft_config, "modules_to_save", None) or ())
    write_adapter(draft, model, guide.mean())
    write_tensors(draft / POSTERIOR_FILE, _posterior_tensors(guide))
    config = {
        "format_version": FORMAT_VERSION,
        "guide": {"class": type(guide).__name__, "arguments": guide.config()},
        "model": {
            "class": type(model).__name__,
            "arguments": model.likelihood_config(),
            "num_data": model.num_data,
            "num_classes": model.num_classes if isinstance(model, Classifier) else None,
            "prior": _prior_record(model.prior),
            "latent": list(model.latent),
            "temperature": model.temperature.tolist() if isinstance(model, Classifier) else None,
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
        "sha256": {name: sha256_of(draft / name) for name in HASHED_FILES},
    }
    (draft / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def _posterior_tensors(guide: LoraGuide) -> dict[str, torch.Tensor]:
    # The means are the adapter; whatever else the guide has learned is the rest of the posterior.
    return {
        name: tensor for name, tensor in guide.state_dict().items() if not name.startswith("M.")
    }


def load_posterior(
    folder: str | Path,
    base_model: nn.Module | None = None,
    *,
    prior: Prior | None = None,
    adapter: str = "default",
) -> tuple[BayesianLora, LoraGuide]:
    """Read a posterior that :func:`save_posterior` wrote.

    Parameters
    ----------
    folder
        The folder.
    base_model
        The loaded network that was fine-tuned; it is changed in place, as PEFT does.  A
        ``PeftModel`` over it, such as ``model.network`` of another posterior, gets this one as a
        further adapter, which is active then: ``net.set_adapter(name)`` switches between them.
        None loads the network that the folder names.
    prior
        Needed only for a posterior that was fitted under a prior of the user's own, which no file
        can hold.
    adapter
        What the adapter is called in the network, whatever it was called when it was saved.

    Returns
    -------
    model, guide
        As they were saved, bit for bit, on the device of ``base_model``.

    Raises
    ------
    ValueError
        If the folder is no posterior, is damaged, comes from a newer format, or was fitted to
        another base model or prior, or if the network has an adapter of that name.
    """
    folder = Path(folder)
    config = read_posterior_config(folder)
    network = _base_network(config) if base_model is None else base_model
    _check_base(folder, config, network, adapter)
    prior = _prior(folder, config["model"]["prior"], prior)
    net = _with_adapter(folder, network, adapter, config["adapter"]["float32"])
    model_class = _known_class(folder, models, config["model"]["class"], BayesianLora)
    guide_class = _known_class(folder, guides, config["guide"]["class"], LoraGuide)
    with blaming(folder / CONFIG_FILE):
        model = model_class(
            net,
            num_data=config["model"]["num_data"],
            prior=prior,
            adapter=adapter,
            latent=tuple(config["model"]["latent"]),
            **config["model"]["arguments"],
        )
        if isinstance(model, Classifier):
            temperature = torch.tensor(config["model"]["temperature"], dtype=torch.float64)
            model.set_temperature(temperature)
        guide = guide_class.from_config(model, config["guide"]["arguments"])
    _load_guide(folder, guide)
    model.eval()
    return model, guide


def posterior_task(folder: str | Path) -> dict[str, Any]:
    """Read what was saved as ``task`` with a posterior (class names, prompt, ...)."""
    task: dict[str, Any] = read_posterior_config(Path(folder))["task"]
    return task


def _base_network(config: dict[str, Any]) -> nn.Module:
    name = config["base_model"]["name"]
    dtype = getattr(torch, config["base_model"]["dtype"])
    if config["model"]["class"] == "SequenceClassifier":
        return load_sequence_classifier(name, config["model"]["num_classes"], dtype)
    return load_causal_lm(name, dtype)


def _with_adapter(folder: Path, network: nn.Module, adapter: str, float32: bool) -> PeftModel:
    # PEFT's default makes a half-precision adapter a float32 one.
    options: dict[str, Any] = {"is_trainable": True, "autocast_adapter_dtype": float32}
    read_lora_config(folder)
    read_tensors(folder / ADAPTER_FILE)
    with blaming(folder / ADAPTER_FILE):
        if not isinstance(network, PeftModel):
            return PeftModel.from_pretrained(network, str(folder), adapter, **options)
        network.load_adapter(str(folder), adapter, **options)
        network.set_adapter(adapter)
    return network


def _check_base(folder: Path, config: dict[str, Any], network: nn.Module, adapter: str) -> None:
    if isinstance(network, PeftModel):
        if adapter in network.peft_config:
            raise ValueError(
                f"base_model is a PeftModel that has an adapter {adapter!r} already; pass "
                "adapter=... for another name, or the network without adapter"
            )
        network = network.get_base_model()
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
    if not isinstance(found, type) or not issubclass(found, base) or found in _BASES:
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
    known = _known_class(folder, lora, record["class"], object)
    with blaming(folder / CONFIG_FILE):
        prior: Prior = known(**record["arguments"])
    return prior


def _load_guide(folder: Path, guide: LoraGuide) -> None:
    path = folder / POSTERIOR_FILE
    tensors = read_tensors(path)
    expected = {name: t for name, t in guide.state_dict().items() if not name.startswith("M.")}
    check_tensors(path, tensors, expected, "the adapter beside it")
    guide.load_state_dict(tensors, strict=False)
