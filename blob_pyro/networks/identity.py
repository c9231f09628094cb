"""By what a base model is known again: its weights, its configuration and its tokenizer."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import constants
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from blob_pyro.networks.quantization import quantization_of

# Entries of a configuration that change no answer, or that the weights tell.
_INDIFFERENT = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("id2label", "label2id", "num_labels", "problem_type", "quantization_config"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states"),
}
# Attribute of a network whose weights are divided: their digests from before.
_KEPT = "_digests_of_whole_weights"
# A state of the tokenizer that each call sets.
_PER_CALL = ("truncation", "padding")


def base_identity(
    network: nn.Module, saved: Sequence[str] = (), files: str | None = None
) -> dict[str, Any]:
    """Describe a network, with or without an adapter in it, so that another one is noticed.

    Parameters
    ----------
    network
        The network that is fine-tuned.
    saved
        PEFT's ``modules_to_save``: parts that an adapter brings along, which are left out.
    files
        From ``files_state``, if the network is just what these files hold: its digest is then
        kept in the cache of the Hugging Face libraries, and read from there the next time.

    Returns
    -------
    dict
        ``dtype`` of the norms; ``shapes`` and ``weights``, SHA-256 digests of all names and shapes,
        and of every number; ``config``, the entries of the configuration that decide answers; and
        ``quantization``, see :func:`blob_pyro.networks.quantization_of`, if the weights are
        quantised.  Then the numbers are whole numbers and their scales.
    """
    frozen = frozen_tensors(network, saved)
    quantization = quantization_of(network)
    parameters = {name: t for name, t in frozen.items() if isinstance(t, nn.Parameter)}
    shapes = "".join(f"{name}{_shape(tensor)}" for name, tensor in parameters.items())
    dtypes = [tensor.dtype for tensor in parameters.values() if tensor.dim() == 1]
    return {
        "dtype": str([torch.float32, *dtypes][-1]).removeprefix("torch."),
        "shapes": hashlib.sha256(shapes.encode()).hexdigest(),
        # Files say nothing of what quantised them.
        "weights": _cached_digest(
            frozen, files if quantization is None else None, getattr(network, _KEPT, {})
        ),
        "config": _config(network),
        **({} if quantization is None else {"quantization": quantization}),
    }


def sampled_values(network: nn.Module, saved: Sequence[str] = ()) -> str:
    """Digest 16 numbers of each weight, as posteriors of formats 1 and 2 recorded them."""
    digest = hashlib.sha256()
    for tensor in frozen_tensors(network, saved).values():
        if isinstance(tensor, nn.Parameter):
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            flat = _parts(whole)[0].detach().flatten()
            digest.update(flat[:: max(1, len(flat) // 16)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def keep_digests(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Digest weights before they are divided, for :func:`base_identity` to find later.

    Parameters
    ----------
    network
        Gets the attribute that holds the digests.
    weights
        Some of :func:`frozen_tensors`.

    Returns
    -------
    dict
        Name to dtype, shape and SHA-256.
    """
    digests = _digests(weights)
    setattr(network, _KEPT, digests)
    return digests


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest a tokenizer: vocabulary, merges, rules, special tokens, and how it cuts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    state = {name: value for name, value in state.items() if name not in _PER_CALL}
    cut = tokenizer.model_max_length, tokenizer.truncation_side
    return _digest_of([state, tokenizer.special_tokens_map, cut])


def files_state(name: str) -> str | None:
    """Digest path, size and time of each file of a base model; None if they are not found."""
    with suppress(OSError):
        config = Path(name, "config.json")
        if not config.exists():
            config = Path(cached_file(name, "config.json", local_files_only=True) or "")
        paths = sorted(path.resolve() for path in config.parent.iterdir())
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        return _digest_of([transformers.__version__, states])
    return None


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _cached_digest(
    frozen: Mapping[str, torch.Tensor], files: str | None, kept: Mapping[str, list[Any]]
) -> str:
    if files is None:
        whole = {name: tensor for name, tensor in frozen.items() if not isinstance(tensor, DTensor)}
        digests = {**kept, **_digests(whole)}
        return _digest_of([(name, digests[name]) for name in frozen])
    what = [(name, str(tensor.dtype)) for name, tensor in frozen.items()]
    path = Path(constants.HF_HOME, "blob_pyro", _digest_of([files, what]))
    with suppress(OSError):
        if re.fullmatch("[0-9a-f]{64}", known := path.read_text(encoding="utf-8")):
            return known
    digest = _cached_digest(frozen, None, kept)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(digest, encoding="utf-8")
    return digest


def _digests(weights: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    # A thread a tensor: hashing leaves the interpreter to the others.
    with ThreadPoolExecutor() as pool:
        return dict(zip(weights, pool.map(_digest_tensor, weights.values()), strict=True))


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    # Of 4 bits, two stand in a byte.
    return tuple(getattr(getattr(tensor, "quant_state", None), "shape", tensor.shape))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Give whole numbers and scales of a tensor of torchao, or the tensor itself."""
    if not type(tensor).__module__.startswith("torchao"):
        return [tensor]
    names, _ = cast(Any, tensor).__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def _digest_tensor(tensor: torch.Tensor) -> list[Any]:
    if len(parts := _parts(tensor)) > 1:
        return [*map(_digest_tensor, parts)]
    numbers: Any = tensor.detach().flatten().cpu().contiguous().view(torch.uint8).numpy()
    return [str(tensor.dtype), [*tensor.shape], hashlib.sha256(numbers).hexdigest()]


def _config(network: nn.Module) -> dict[str, Any]:
    def decisive(entries: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in entries.items() if name not in _INDIFFERENT}

    config = getattr(network, "config", None)
    text = "{}" if config is None else config.to_json_string(use_diff=True)
    content: dict[str, Any] = json.loads(text, object_hook=decisive)
    return content


def frozen_tensors(network: nn.Module, saved: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Give parameters and saved buffers by their names without adapter, in order.

    The scales of quantised weights are no buffers: a state holds them under names of their own.
    """
    state = network.state_dict()
    named = {
        *(name for name, _ in network.named_parameters(remove_duplicate=False)),
        *(name for name, _ in network.named_buffers(remove_duplicate=False)),
    }
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in state}
    scales = {name: t for name, t in state.items() if name not in named and torch.is_tensor(t)}
    tensors = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in {**scales, **dict(network.named_parameters()), **buffers}.items()
        if "lora_" not in name and ".modules_to_save." not in name
    }
    return {name: tensors[name] for name in sorted(tensors) if not _is_saved(name, saved)}


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    # As PEFT does: by the end of a module's name, so that "classifier" is "pre_classifier" too.
    path = name.split(".")[:-1]
    modules = [".".join(path[: depth + 1]) for depth in range(len(path))]
    return any(module.endswith(end) for module in modules for end in saved)
