"""Writing a posterior: a valid PEFT adapter, and beside it what makes it a posterior."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from blob_pyro.diagnostics import FeatureDistance
from blob_pyro.files.adapter import base_name, write_adapter, write_tensors
from blob_pyro.files.atomic import atomic_folder, check_writable
from blob_pyro.files.card import CARD_FILE, card_metrics, is_users_card, model_card, write_card
from blob_pyro.files.config import (
    CONFIG_FILE,
    FEATURES_FILE,
    FORMAT_VERSION,
    HASHED_FILES,
    POSTERIOR_FILE,
    AnswersRecord,
    PosteriorConfig,
    PriorRecord,
    read_posterior_config,
    sha256_of,
)
from blob_pyro.guides import LoraGuide
from blob_pyro.lora.saveable import check_saveable
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks import base_identity, pooling_of
from blob_pyro.networks.identity import tokenizer_identity
from blob_pyro.version import __version__

_LIBRARIES = ("torch", "pyro-ppl", "peft", "transformers")


def save_posterior(
    folder: str | Path,
    model: BayesianLora,
    guide: LoraGuide,
    *,
    task: Mapping[str, Any] | None = None,
    method: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    features: FeatureDistance | None = None,
    answers: AnswersRecord | None = None,
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
    method
        How it was fitted, such as a name of :data:`blob_pyro.recipe.METHODS`.
    tokenizer
        Tokenizer of the texts that it was fitted to, by which :func:`~blob_pyro.recipe.load`
        refuses another one.
    features
        Tells the training texts' features from others.
    answers
        When it answers, as :meth:`~blob_pyro.recipe.Posterior.choose_threshold` found out.

    Raises
    ------
    ValueError
        If ``folder`` is a file, or a folder that holds something other than a posterior, or this
        process holds only a shard of it.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    if any(isinstance(tensor, DTensor) for tensor in guide.state_dict().values()):
        raise ValueError(
            "this process holds only a shard of the guide; gather its parameters in all processes, "
            "each by full_tensor(), into a guide that is not sharded"
        )
    check_saveable(model.network, model.adapter)
    card = () if is_users_card(folder / CARD_FILE) else (CARD_FILE,)
    with atomic_folder(
        folder, replaces=(*HASHED_FILES, FEATURES_FILE, CONFIG_FILE, *card)
    ) as draft:
        if features is not None:
            tensors = {name: torch.from_numpy(array) for name, array in vars(features).items()}
            write_tensors(draft / FEATURES_FILE, tensors)
        config = _write(draft, model, guide, dict(task or {}), method, tokenizer, answers)
        if card:
            write_card(draft, model_card(config))


def write_answers(folder: str | Path, answers: AnswersRecord) -> None:
    """Keep in a saved posterior, and on its card, when it answers.

    Parameters
    ----------
    folder
        What :func:`save_posterior` wrote.
    answers
        As there.
    """
    folder = Path(folder)
    config = read_posterior_config(folder).model_copy(update={"answers": answers})
    path = folder / CARD_FILE
    card = () if is_users_card(path) else (CARD_FILE,)
    with atomic_folder(folder, replaces=(CONFIG_FILE, *card)) as draft:
        _write_config(draft, config)
        if card:
            write_card(draft, model_card(config, *card_metrics(path)))


def check_output(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that a posterior could not be saved in, before it is fitted.

    Raises
    ------
    ValueError
        If something would be lost, a posterior among it unless ``overwrite``, or the folder cannot
        be written.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    if _is_posterior(folder) and not overwrite:
        raise ValueError(
            f"{folder} holds a posterior; give another folder, or --overwrite to replace it"
        )
    check_writable(folder)


def _check_replaceable(folder: Path) -> None:
    if _is_posterior(folder) or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(
            f"{folder} exists and is not a posterior; give a new folder, so that nothing is lost"
        )


def _is_posterior(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists()


def _write(
    draft: Path,
    model: BayesianLora,
    guide: LoraGuide,
    task: dict[str, Any],
    method: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    answers: AnswersRecord | None,
) -> PosteriorConfig:
    peft_config = model.network.peft_config[model.adapter]
    saved = tuple(getattr(peft_config, "modules_to_save", None) or ())
    write_adapter(draft, model, guide.mean())
    write_tensors(draft / POSTERIOR_FILE, _posterior_tensors(guide))
    base, classifies = model.network.get_base_model(), isinstance(model, Classifier)
    config = PosteriorConfig.model_validate(
        {
            "format_version": FORMAT_VERSION,
            "guide": {"class": type(guide).__name__, "arguments": guide.config()},
            "model": {
                "class": type(model).__name__,
                "arguments": model.likelihood_config(),
                "num_data": model.num_data,
                "num_classes": model.num_classes if classifies else None,
                "prior": PriorRecord.of(model.prior),
                "latent": list(model.latent),
                "temperature": model.temperature.tolist() if classifies else None,
            },
            "base_model": {
                "name": base_name(model),
                "saved_modules": sorted(saved),
                "tokenizer": None if tokenizer is None else tokenizer_identity(tokenizer),
                **base_identity(base, saved),
            },
            "adapter": {"float32": next(iter(guide.mean().values())).dtype == torch.float32},
            "pooling": pooling_of(base),
            "task": task,
            **({} if answers is None else {"answers": answers}),
            "method": method,
            "versions": {"blob-pyro": __version__, **{name: version(name) for name in _LIBRARIES}},
            "sha256": {path.name: sha256_of(path) for path in sorted(draft.iterdir())},
        }
    )
    _write_config(draft, config)
    return config


def _write_config(draft: Path, config: PosteriorConfig) -> None:
    (draft / CONFIG_FILE).write_text(
        config.model_dump_json(indent=2, exclude_unset=True) + "\n", encoding="utf-8"
    )


def _posterior_tensors(guide: LoraGuide) -> dict[str, torch.Tensor]:
    # The means are the adapter; whatever else the guide has learned is the rest of the posterior.
    return {
        name: tensor for name, tensor in guide.state_dict().items() if not name.startswith("M.")
    }
