"""The model card beside a saved posterior, in the Hub's format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from blob_pyro.files.atomic import atomic_file
from blob_pyro.files.config import read_posterior_config
from blob_pyro.networks import SMOLLM2

CARD_FILE = "README.md"
_TAGS = ["bayesian", "blob_pyro", "calibration", "lora", "uncertainty"]
_SIGNATURE = "<!-- Written by blob_pyro; changed text is kept. sha256 of the text above: {} -->\n"


def model_card(
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    *,
    data: str | None = None,
) -> str:
    """Describe a posterior: what it is, how good it is, and how to load it.

    Parameters
    ----------
    config
        The content of its ``posterior_config.json``.
    metrics
        Name to value on test examples, NLL in nats; None leaves them out.
    data
        Name of what they were measured on; None for the task of ``config``.

    Returns
    -------
    str
        Markdown with YAML front matter.  Its last line is a checksum of the others, by which
        :func:`is_users_card` knows that nobody has changed them.

    References
    ----------
    The Hub's format: https://huggingface.co/docs/hub/model-cards
    """
    data = data or str(config["task"].get("name", "test examples"))
    lines = [
        "---",
        _front_matter(config, metrics, data),
        "---",
        "",
        f"# {_title(config)}",
        "",
        "A LoRA adapter with a posterior over its weights, so that its probabilities say how sure "
        "it is. Made by blob_pyro.",
        "",
        *_table(("", ""), _facts(config)),
        "",
        *_metrics_part(metrics, data),
        *_use_part(config),
    ]
    text = "\n".join(lines) + "\n\n"
    return text + _SIGNATURE.format(_digest(text))


def is_users_card(path: Path) -> bool:
    """Tell whether a file is a card that a user wrote or changed, which must not be lost.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "README.md"
    >>> is_users_card(path)
    False
    >>> _ = path.write_text("# My notes")
    >>> is_users_card(path)
    True
    """
    if not path.exists():
        return False
    *text, signature = path.read_bytes().splitlines(keepends=True) or [b""]
    above = b"".join(text)
    return signature != _SIGNATURE.format(hashlib.sha256(above).hexdigest()).encode()


def write_card(
    folder: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    *,
    data: str | None = None,
) -> None:
    """Write the card of a posterior into its folder, unless a user's is there.

    Parameters
    ----------
    folder
        The posterior's folder.
    config, metrics, data
        See :func:`model_card`.
    """
    path = folder / CARD_FILE
    if not is_users_card(path):
        with atomic_file(path) as file:
            file.write(model_card(config, metrics, data=data).encode())


def write_metrics(folder: Path, metrics: Mapping[str, float], *, data: str | None = None) -> None:
    """Put metrics on the card of a posterior that was saved without, unless the card is a user's.

    Parameters
    ----------
    folder
        The posterior's folder.
    metrics, data
        See :func:`model_card`.

    Raises
    ------
    ValueError
        If the folder holds no whole posterior.
    """
    write_card(folder, read_posterior_config(folder), metrics, data=data)


def is_on_hub(name: str | None) -> bool:
    """Tell whether a base model's name is one that others can load, and no folder of one's own."""
    if not name or name == SMOLLM2 or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _base(config: Mapping[str, Any]) -> str:
    name = config["base_model"]["name"]
    if not name:
        return "unnamed"
    # A path says more of its owner's machine than of the model.
    return name if is_on_hub(name) else Path(name).name


def _title(config: Mapping[str, Any]) -> str:
    task = config["task"].get("name")
    return f"{_base(config)}{f' on {task}' if task else ''}: a posterior over its adapter"


def _front_matter(
    config: Mapping[str, Any], metrics: Mapping[str, float] | None, dataset: str
) -> str:
    name = config["base_model"]["name"]
    kind = "text-generation" if config["model"]["class"] == "CausalLM" else "text-classification"
    results = [
        EvalResult(kind, dataset, dataset, metric, float(value))
        for metric, value in (metrics or {}).items()
    ]
    data = ModelCardData(
        base_model=name if is_on_hub(name) else None,
        library_name="peft",
        pipeline_tag=kind,
        tags=_TAGS,
        model_name=_title(config) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, guide, task = config["model"], config["guide"], config["task"]
    classes = task.get("class_names")
    listed = f" ({', '.join(map(str, classes))})" if classes else ""
    versions = ", ".join(f"{name} {number}" for name, number in config["versions"].items())
    own = "" if is_on_hub(config["base_model"]["name"]) else " (not on the Hub)"
    return [
        ("base model", f"{_base(config)}{own}, {config['base_model']['dtype']}"),
        ("task", f"{task.get('name', 'not recorded')}{listed}"),
        ("likelihood", f"`{model['class']}`, {model['num_data']} training examples"),
        *([("method", f"`{config['method']}`")] if config.get("method") else []),
        ("posterior", f"`{guide['class']}`, over " + ", ".join(f"`{m}`" for m in model["latent"])),
        ("prior", _prior(model["prior"])),
        ("made with", versions),
    ]


def _prior(prior: Mapping[str, Any]) -> str:
    if prior["arguments"] is None:
        return f"`{prior['class']}`, its author's own: `load_posterior(..., prior=...)`"
    arguments = ", ".join(f"{name}={value!r}" for name, value in prior["arguments"].items())
    return f"`{prior['class']}({arguments})`"


def _metrics_part(metrics: Mapping[str, float] | None, data: str) -> list[str]:
    if not metrics:
        return []
    rows = [("measured on", data), *((name, f"{value:.4f}") for name, value in metrics.items())]
    return ["## Metrics", "", *_table(("", ""), rows), ""]


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    # A bar or line break in a name would end its cell.
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {header[0]} | {header[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in cells)]


def _use_part(config: Mapping[str, Any]) -> list[str]:
    how, imported, base = _loading(config)
    return [
        "## Use",
        "",
        'Below, `folder` is this folder, or `huggingface_hub.snapshot_download("USER/NAME")`.',
        "",
        "With blob_pyro, which draws from the posterior:",
        "",
        "```python",
        "import blob_pyro",
        "",
        "model, guide = blob_pyro.load_posterior(folder)",
        "```",
        "",
        f"{how}, which predicts with the posterior's mean:",
        "",
        "```python",
        "from peft import PeftModel",
        imported,
        "",
        f"base = {base}",
        "net = PeftModel.from_pretrained(base, folder)",
        "```",
    ]


def _loading(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give how PEFT takes the adapter, what is imported for it, and what makes the base model."""
    name, classes = _base(config), config["model"]["num_classes"]
    plain = "Without it, as an ordinary PEFT adapter"
    if config["pooling"] == "mean":
        return (
            "As an ordinary PEFT adapter of a head on the mean of the token vectors, which "
            "Transformers has not (PEFT refuses the adapter on other heads)",
            "from blob_pyro.networks import load_sequence_classifier",
            f'load_sequence_classifier("{name}", {classes}, pooling="mean")',
        )
    if config["model"]["class"] == "SequenceClassifier":
        network, labels = "AutoModelForSequenceClassification", f", num_labels={classes}"
    else:
        network, labels = "AutoModelForCausalLM", ""
    make = f'{network}.from_pretrained("{name}"{labels})'
    return plain, f"from transformers import {network}", make
