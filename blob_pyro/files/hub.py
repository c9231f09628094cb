"""Sharing a saved posterior on the Hugging Face Hub."""

from __future__ import annotations

import warnings
from pathlib import Path

from huggingface_hub import HfApi

from blob_pyro.files.card import CARD_FILE, is_on_hub
from blob_pyro.files.config import CONFIG_FILE, HASHED_FILES, read_posterior_config
from blob_pyro.version import __version__


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str = "Upload a posterior",
    client: HfApi | None = None,
) -> str:
    """Upload a saved posterior, and nothing else that its folder may hold.

    Parameters
    ----------
    folder
        What :func:`blob_pyro.files.save_posterior` wrote.
    repo_id
        ``user/name``; made if it does not exist.
    private
        Whether a new repository is private; None for the user's or organisation's default.
    commit_message
        First line of the commit.
    client
        Says where to and as whom; None takes the Hub and the token of ``hf auth login``.

    Returns
    -------
    str
        Address of the repository.

    Raises
    ------
    ValueError
        If the folder is no posterior, or is damaged; nothing is uploaded then.

    Warns
    -----
    UserWarning
        If the base model is a folder of one's own, which others cannot load by its name.
    """
    folder = Path(folder)
    base = read_posterior_config(folder)["base_model"]["name"]
    if not is_on_hub(base):
        warnings.warn(
            f"{folder} was fitted to {base!r}, which is no model of the Hub; whoever loads "
            f"{repo_id} has to give load_posterior the network itself",
            stacklevel=2,
        )
    client = client or HfApi(library_name="blob_pyro", library_version=__version__)
    # The owner may be left out, and the Hub then adds it.
    repo = client.create_repo(repo_id, private=private, exist_ok=True)
    client.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        allow_patterns=[*HASHED_FILES, CONFIG_FILE, CARD_FILE],
        commit_message=commit_message,
    )
    return str(repo)
