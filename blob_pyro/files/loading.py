"""Reading a posterior, all of it checked before it is used."""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from blob_pyro import models
from blob_pyro.diagnostics import FeatureDistance
from blob_pyro.files.adapter import ADAPTER_FILE, check_tensors, load_adapter, read_tensors
from blob_pyro.files.config import (
    CONFIG_FILE,
    FEATURES_FILE,
    POSTERIOR_FILE,
    BaseRecord,
    ModelRecord,
    PosteriorConfig,
    known,
    read_posterior_config,
)
from blob_pyro.guides import LoraGuide
from blob_pyro.guides.lora_guide import find_guide
from blob_pyro.lora import Prior
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks import base_identity, load_causal_lm, load_sequence_classifier
from blob_pyro.networks.identity import files_state, sampled_values
from blob_pyro.networks.reading import reading
from blob_pyro.poutine import in_turn

# Those of blob_pyro.models that can be fitted.
_ATTEMPTS = 10
_FITTED = ("CausalLM", "LabelTokenClassifier", "OptionLikelihood", "SequenceClassifier")
_MODELS: dict[str, Any] = {name: getattr(models, name) for name in _FITTED}


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
        If the folder is not a posterior, is damaged, comes from a newer format, or was fitted to
        another base model or prior, or if the network has an adapter of that name.
    """
    _, model, guide, _ = load_with_config(Path(folder), base_model, prior=prior, adapter=adapter)
    return model, guide


def load_with_config(
    folder: Path,
    base_model: nn.Module | None,
    *,
    prior: Prior | None = None,
    adapter: str = "default",
) -> tuple[PosteriorConfig, BayesianLora, LoraGuide, FeatureDistance | None]:
    """Do what :func:`load_posterior` does, and give what else the same version holds."""
    config, tensors, guide_tensors, features = _read_version(folder)
    files = None
    if base_model is None:
        base_model, files = _base_network(folder, config, tensors)
    _check_base(folder, config.base_model, base_model, adapter, files)
    # PEFT makes a random adapter first, and a guide random signs: draws elsewhere must not notice.
    with in_turn(), torch.random.fork_rng(devices=[]):
        prior = config.model.prior.make(folder, prior)
        net = load_adapter(folder, base_model, tensors, adapter, float32=config.adapter["float32"])
        model = _model(folder, config.model, net, prior, adapter)
        make = known(folder, config.guide.name, find_guide)
        with reading(folder / CONFIG_FILE):
            guide: LoraGuide = make.from_config(model, config.guide.arguments)
        _load_guide(folder, guide, guide_tensors)
    model.eval()
    return config, model, guide, features


def _read_version(
    folder: Path,
) -> tuple[
    PosteriorConfig, dict[str, torch.Tensor], dict[str, torch.Tensor], FeatureDistance | None
]:
    """Read all files of one version of a folder, which another process may replace meanwhile."""
    for _ in range(_ATTEMPTS):
        before = _version(folder)
        try:
            config = read_posterior_config(folder)
            tensors = read_tensors(folder / ADAPTER_FILE), read_tensors(folder / POSTERIOR_FILE)
            features = _features(folder / FEATURES_FILE) if FEATURES_FILE in config.sha256 else None
        except ValueError:
            if _version(folder) == before:
                raise
        else:
            if _version(folder) == before:
                return config, *tensors, features
    raise ValueError(f"{folder} was replaced again and again while it was read; load it later")


def _features(path: Path) -> FeatureDistance:
    with reading(path):
        return FeatureDistance(**{name: t.numpy() for name, t in read_tensors(path).items()})


def _version(folder: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        state = folder.stat()
        return state.st_ino, state.st_mtime_ns
    return None


def posterior_task(folder: str | Path) -> dict[str, Any]:
    """Read what was saved as ``task`` with a posterior (class names, prompt, ...)."""
    return read_posterior_config(Path(folder)).task


def _base_network(
    folder: Path, config: PosteriorConfig, tensors: Mapping[str, torch.Tensor]
) -> tuple[nn.Module, str | None]:
    """Load the base model, and give the state of its files."""
    name, dtype = config.base_model.name, getattr(torch, config.base_model.dtype)
    if name is None:
        raise ValueError(f"{folder} does not name its base model; pass it as base_model")
    # From before they are read: what is written meanwhile is not in the network.
    files = files_state(name)
    quantization = config.base_model.quantization
    if config.model.name != "SequenceClassifier":
        return load_causal_lm(name, dtype, quantization=quantization), files
    classes = cast(int, config.model.num_classes)
    # Before a head of any size is made.
    if classes not in {len(tensor) for key, tensor in tensors.items() if ".lora_" not in key}:
        raise ValueError(
            f"{folder / CONFIG_FILE}: num_classes is {classes}, but {ADAPTER_FILE} has no head "
            "with so many; restore the folder from a copy, or pass the network as base_model"
        )
    network = load_sequence_classifier(
        name, classes, dtype, pooling=config.pooling, quantization=quantization
    )
    return network, files


def _check_base(
    folder: Path, wanted: BaseRecord, network: nn.Module, adapter: str, files: str | None
) -> None:
    if isinstance(network, PeftModel):
        if adapter in network.peft_config:
            raise ValueError(
                f"base_model is a PeftModel that has an adapter {adapter!r} already; pass "
                "adapter=... for another name, or the network without adapter"
            )
        network = network.get_base_model()
    found = base_identity(network, wanted.saved_modules, files)
    needed: dict[str, Any] = {"shapes": wanted.shapes}
    there, here = str(wanted.dtype), found["dtype"]
    if quantizations := [q for q in (wanted.quantization, found.get("quantization")) if q]:
        # Entries of these, too, come and go with versions.
        shared = set.intersection(*map(set, quantizations))
        there += _quantised(wanted.quantization, shared)
        here += _quantised(found.get("quantization"), shared)
    # Numbers can only be compared at the precision that they were hashed at.
    if there != here:
        warnings.warn(
            f"{folder} was fitted to a base model in {there} and this one is in {here}, so only "
            "the names and sizes of its weights were compared",
            stacklevel=4,
        )
    elif wanted.weights is not None:
        needed["weights"] = wanted.weights
    else:
        needed["values"] = wanted.values
        found["values"] = sampled_values(network, wanted.saved_modules)
    # Entries of configurations come and go with versions of Transformers.
    for key, value in {**needed, **(wanted.config or {})}.items():
        entry = {**found["config"], **found}.get(key, value)
        if entry != value:
            raise ValueError(
                f"{folder} was fitted to the base model {wanted.name!r}, and the {key} of this "
                f"{type(network).__name__} differ from it: {entry!r:.80}, not {value!r:.80}; load "
                "that base model"
            )


def _quantised(quantization: Mapping[str, Any] | None, entries: Iterable[str]) -> str:
    if quantization is None:
        return ""
    chosen = ", ".join(f"{name}={quantization[name]!r}" for name in sorted(entries))
    return f", quantised with {chosen}"


def _model(
    folder: Path, record: ModelRecord, net: PeftModel, prior: Prior, adapter: str
) -> BayesianLora:
    make = known(folder, record.name, _MODELS.__getitem__)
    with reading(folder / CONFIG_FILE):
        model: BayesianLora = make(
            net,
            num_data=record.num_data,
            prior=prior,
            adapter=adapter,
            latent=tuple(record.latent),
            **record.arguments,
        )
        if isinstance(model, Classifier):
            if model.num_classes != record.num_classes:
                raise ValueError(f"num_classes is {record.num_classes}, not {model.num_classes}")
            model.set_temperature(torch.tensor(record.temperature, dtype=torch.float64))
    return model


def _load_guide(folder: Path, guide: LoraGuide, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / POSTERIOR_FILE
    expected = {name: t for name, t in guide.state_dict().items() if not name.startswith("M.")}
    check_tensors(path, tensors, expected, "the adapter beside it")
    before = guide.scale()
    guide.load_state_dict(tensors, strict=False)
    for name, scale in guide.scale().items():
        # Some kinds of guides have scales of zero, but only where they start at zero.
        if not (scale.isfinite() & (scale >= 0) & ((scale > 0) | (before[name] == 0))).all():
            raise ValueError(
                f"{path}: the scales of {name!r} are not all positive and finite; restore the "
                "folder from a copy"
            )
