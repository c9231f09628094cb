"""What a sentence encoder says of its pooling, in the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Pooling = Literal["auto", "mean", "head"]


def pools_by_mean(source: str, config: PreTrainedConfig) -> bool:
    """Tell whether a model is pooled by the mean, and has no trained head of its own.

    Parameters
    ----------
    source
        Hub name or local folder.
    config
        Its configuration.
    """
    if (config.architectures or [""])[0].endswith("ForSequenceClassification"):
        return False
    modules = _read_json(source, "modules.json") or []
    # A name and no path, which could lead anywhere.
    paths = [Path(part["path"]).name for part in modules if part["type"].endswith(".Pooling")]
    said = [_read_json(source, f"{path}/config.json") or {} for path in paths]
    return any(
        pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"
        for pooling in said
    )


def _read_json(source: str, file: str) -> Any:
    from transformers.utils import cached_file

    path = cached_file(
        source,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
