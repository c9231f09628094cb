"""The files of a PEFT adapter, and tensors read from a file that may be anything."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blob_pyro.lora import check_no_adapter
from blob_pyro.models import BayesianLora
from blob_pyro.networks import pooling_of
from blob_pyro.networks.loading import quiet_peft
from blob_pyro.networks.reading import reading
from blob_pyro.settings import Settings

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

# PEFT takes names for regular expressions: these allow none that could match for ever.
_Name = Annotated[str, Field(pattern=r"^[\w.\\^$-]+$")]
_Positive = Annotated[float, Field(gt=0)]
# What the tensors tell, and what decides nothing once they are there.
_NOT_READ = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "init_lora_weights", "eva_config", "corda_config", "lora_ga_config"),
    *("loftq_config", "inference_mode", "auto_mapping", "peft_version"),
}


class _LoraRecord(BaseModel):
    """What the configuration of an adapter may say; whatever else it says has to be empty."""

    model_config = {**Settings.model_config, "extra": "allow"}

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM"] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: Annotated[int, Field(ge=1)] = 8
    lora_alpha: int | float = Field(gt=0)
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_bias: bool = False
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    ensure_weight_tying: bool = False
    alpha_pattern: dict[_Name, _Positive] = {}
    modules_to_save: list[_Name] | None = None

    @model_validator(mode="after")
    def _is_plain(self) -> Self:
        defaults = vars(LoraConfig())
        for name, value in (self.model_extra or {}).items():
            # A number of another version of PEFT needs a switch to matter.
            usual = defaults.get(name, value if type(value) in (int, float, str) else None)
            if value and value != usual and name not in _NOT_READ:
                raise ValueError(f"{name} is {value!r:.100}, which is more than plain LoRA")
        return self


def write_adapter(folder: Path, model: BayesianLora, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the network's adapter, with ordinary weights in the place of the latent ones.

    Parameters
    ----------
    folder
        An existing folder.
    model
        The Bayesian model; its ``lora_B`` and other point estimates are written too.
    weights
        Site name to ``lora_A``, ``r x n``; in an ensemble's draw names of ``heads`` too.
    """
    peft_config = cast(LoraConfig, copy.copy(model.network.peft_config[model.adapter]))
    peft_config.inference_mode = True
    peft_config.base_model_name_or_path = base_name(model)
    layers = _adapted_layers(model)
    if pooling_of(model.network.get_base_model()) == "mean":
        # Whole names, which no network that pools otherwise has: PEFT then refuses the adapter.
        peft_config.target_modules = [*layers]
    if peft_config.alpha_pattern:
        # Whole names here too, since nobody should match a pattern from a file.
        peft_config.alpha_pattern = {
            name: layer.lora_alpha[model.adapter] for name, layer in layers.items()
        }
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


def _adapted_layers(model: BayesianLora) -> dict[str, LoraLayer]:
    return {
        name: module
        for name, module in model.network.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and model.adapter in module.r
    }


def _adapter_tensors(
    model: BayesianLora, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    state = dict(model.network.state_dict())
    for site, weight in weights.items():
        own, _, _ = model.heads.get(site, (None, None, None))
        state[own or f"{site.removesuffix('.weight')}.{model.adapter}.weight"] = weight
    # "auto" would ask the Hub for the base model's vocabulary, which fails without a network.
    return get_peft_model_state_dict(
        model.network, state_dict=state, adapter_name=model.adapter, save_embedding_layers=False
    )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors from any device as a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # That of the umask, where safetensors lets the owner alone read.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(on_cpu, path, metadata={"format": "pt"})
        path.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise a ``ValueError`` that names the file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; is {path.parent} the right folder?")
    with reading(path):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("no JSON object")
    return content


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file of finite numbers, or raise a ``ValueError`` that names it.

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
    with reading(path):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name!r} has numbers that are not finite")
    return tensors


def read_lora_config(folder: Path, tensors: Mapping[str, torch.Tensor]) -> LoraConfig:
    """Read the configuration of a LoRA adapter for training, or raise a ``ValueError``.

    Other kinds of adapters are refused, some of which load code or tokenizers that they name.

    Parameters
    ----------
    folder
        The adapter's folder.
    tensors
        The adapter's tensors: they say which layers it has and of which rank, so that no pattern
        is matched.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json(path)
    ranks = {
        name.removeprefix("base_model.model.").partition(".lora_A.")[0]: len(tensor)
        for name, tensor in tensors.items()
        if ".lora_A." in name and tensor.dim() == 2
    }
    with reading(path):
        record = _LoraRecord.model_validate(content)
        settings = record.model_dump(exclude={"peft_type", *(record.model_extra or ())})
        others = {name: rank for name, rank in ranks.items() if rank != record.r}
        return LoraConfig(**settings, target_modules=sorted(ranks), rank_pattern=others)


def load_adapter(
    folder: Path,
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    adapter: str = "default",
    *,
    float32: bool = True,
) -> PeftModel:
    """Give a network the adapter of a folder, in place; it is active then, and can be trained.

    Parameters
    ----------
    folder
        The adapter's folder.
    network
        The base model, or a ``PeftModel`` that has other adapters.
    tensors
        The adapter's tensors.
    adapter
        What it is called in the network.
    float32
        Whether an adapter of half precision becomes one of float32, which is PEFT's default.

    Raises
    ------
    ValueError
        If the adapter does not fit the network, or lacks a tensor or has one too many; or if the
        network has LoRA layers and is no ``PeftModel``.
    """
    if not isinstance(network, PeftModel):
        check_no_adapter(network)
    config = read_lora_config(folder, tensors)
    with reading(folder / ADAPTER_CONFIG), quiet_peft():
        if isinstance(network, PeftModel):
            network.add_adapter(adapter, config, autocast_adapter_dtype=float32)
            network.set_adapter(adapter)
        else:
            make = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(str(config.task_type), PeftModel)
            network = make(network, config, adapter, autocast_adapter_dtype=float32)
    # "auto" would ask the Hub for the base model's vocabulary, which fails without a network.
    expected = get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)
    what = f"a {type(network.get_base_model()).__name__} with that adapter"
    check_tensors(folder / ADAPTER_FILE, tensors, expected, what)
    set_peft_model_state_dict(network, dict(tensors), adapter)
    return network


def check_tensors(
    path: Path, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> None:
    """Raise a ``ValueError`` if a file's tensors have other names, shapes or types than are needed.

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
        if (
            tensor.is_complex()
            or tensor.dtype.is_floating_point != expected[name].is_floating_point()
        ):
            raise ValueError(
                f"{path}: {name!r} has {tensor.dtype} numbers but {what} needs "
                f"{expected[name].dtype}; restore the folder from a copy"
            )
