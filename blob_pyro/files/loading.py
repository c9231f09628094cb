"""Reading a posterior, all of it checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from blob_pyro import models, posthoc  # noqa: F401  (posthoc makes its guides known)
from blob_pyro.files.adapter import (
    ADAPTER_FILE,
    blaming,
    check_tensors,
    read_lora_config,
    read_tensors,
)
from blob_pyro.files.config import CONFIG_FILE, POSTERIOR_FILE, read_posterior_config
from blob_pyro.files.prior import known_class, recorded_prior
from blob_pyro.guides import LoraGuide
from blob_pyro.guides.lora_guide import find_guide
from blob_pyro.lora import Prior
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks import base_identity, load_causal_lm, load_sequence_classifier


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
    prior = recorded_prior(folder, config["model"]["prior"], prior)
    net = _with_adapter(folder, network, adapter, config["adapter"]["float32"])
    model_class = known_class(folder, models, config["model"]["class"], BayesianLora)
    guide_class = _known_guide(folder, config["guide"]["class"])
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
        classes, pooling = config["model"]["num_classes"], config["pooling"]
        return load_sequence_classifier(name, classes, dtype, pooling=pooling)
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


def _known_guide(folder: Path, name: str) -> type[LoraGuide]:
    try:
        return find_guide(name)
    except KeyError:
        raise ValueError(
            f"{folder / CONFIG_FILE} asks for the guide {name!r}, which is not known here; import "
            "the module that defines it, or use the version of blob_pyro that wrote it"
        ) from None


def _load_guide(folder: Path, guide: LoraGuide) -> None:
    path = folder / POSTERIOR_FILE
    tensors = read_tensors(path)
    expected = {name: t for name, t in guide.state_dict().items() if not name.startswith("M.")}
    check_tensors(path, tensors, expected, "the adapter beside it")
    guide.load_state_dict(tensors, strict=False)
