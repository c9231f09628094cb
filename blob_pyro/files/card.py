"""The model card beside a saved posterior, and sharing both on the Hugging Face Hub."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from blob_pyro.files.atomic import atomic_file
from blob_pyro.files.config import (
    CONFIG_FILE,
    FEATURES_FILE,
    HASHED_FILES,
    PosteriorConfig,
    read_posterior_config,
)
from blob_pyro.networks import SMOLLM2
from blob_pyro.version import __version__

CARD_FILE = "README.md"
_TAGS = ["bayesian", "blob_pyro", "calibration", "lora", "uncertainty"]
_SIGNATURE = "<!-- Written by blob_pyro; changed text is kept. sha256 of the text above: {} -->\n"
_NUM_EXAMPLES = "num_examples"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")


def model_card(
    config: PosteriorConfig,
    metrics: Mapping[str, float] | None = None,
    num_examples: int = 0,
    data: str | None = None,
) -> str:
    """Describe a posterior: what it is, how good it is, and how to load it.

    Parameters
    ----------
    config
        The content of its ``posterior_config.json``.
    metrics
        Name to value on test examples, NLL in nats; None leaves them out.
    num_examples
        How many examples they were measured on.
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
    data = data or str(config.task.get("name", "test examples"))
    name, classes = config.base_model.name, config.task.get("class_names")
    # A path says more of its owner's machine than of the model.
    base = name if is_on_hub(name) else Path(name or "unnamed").name
    task = f" on {config.task['name']}" if config.task.get("name") else ""
    title = f"{base}{task}: a posterior over its adapter"
    kind = "text-generation" if config.model.name == "CausalLM" else "text-classification"
    results = [
        EvalResult(kind, data, data, name, value, dataset_args={_NUM_EXAMPLES: num_examples})
        for name, value in (metrics or {}).items()
    ]
    card_data = ModelCardData(
        base_model=name if is_on_hub(name) else None,
        library_name="peft",
        pipeline_tag=kind,
        tags=_TAGS,
        model_name=title if results else None,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        card_data,
        str(_TEMPLATE),
        config=config,
        title=_plain(title),
        base=base,
        quoted=json.dumps(base),
        on_hub=is_on_hub(name),
        classes=", ".join(map(str, classes)) if isinstance(classes, list) else "",
        metrics=metrics,
        num_examples=num_examples,
        data=data,
        plain=_plain,
    )
    text = f"{str(card).rstrip()}\n\n"
    return text + _SIGNATURE.format(hashlib.sha256(text.encode()).hexdigest())


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
    if not path.is_file():
        return path.exists()
    *text, signature = path.read_bytes().splitlines(keepends=True) or [b""]
    above = b"".join(text)
    return signature != _SIGNATURE.format(hashlib.sha256(above).hexdigest()).encode()


def write_card(folder: Path, text: str) -> None:
    """Write the card of a posterior into its folder, unless a user's is there."""
    path = folder / CARD_FILE
    if not is_users_card(path):
        with atomic_file(path) as file:
            file.write(text.encode())


def write_metrics(
    folder: Path, metrics: Mapping[str, float], num_examples: int, data: str | None = None
) -> None:
    """Put metrics on the card of a saved posterior, unless the card is a user's.

    Parameters
    ----------
    folder
        The posterior's folder.
    metrics, num_examples, data
        See :func:`model_card`.

    Raises
    ------
    ValueError
        If the folder holds no whole posterior.

    Warns
    -----
    UserWarning
        If the card has metrics of more examples, which stay.
    """
    path = folder / CARD_FILE
    known = 0 if is_users_card(path) else card_metrics(path)[1]
    if known > num_examples:
        warnings.warn(
            f"{path} keeps its metrics of {known} examples, since the new ones are of "
            f"{num_examples} only",
            stacklevel=2,
        )
        return
    write_card(folder, model_card(read_posterior_config(folder), metrics, num_examples, data))


def card_metrics(path: Path) -> tuple[dict[str, float], int, str | None]:
    """Read off a card of ours its metrics, on how many examples, and of which data."""
    card = ModelCard(path.read_text(encoding="utf-8")) if path.exists() else None
    results: list[EvalResult] = getattr(getattr(card, "data", None), "eval_results", None) or []
    if not results:
        return {}, 0, None
    num_examples = (results[0].dataset_args or {}).get(_NUM_EXAMPLES, 0)
    metrics = {result.metric_type: result.metric_value for result in results}
    return metrics, num_examples, results[0].dataset_name


def is_on_hub(name: str | None) -> bool:
    """Tell whether a base model's name names a model that others can load, not a folder."""
    if not name or name == SMOLLM2 or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


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
        If the folder is not a posterior, or is damaged; nothing is uploaded then.

    Warns
    -----
    UserWarning
        If the base model is a folder of one's own, which others cannot load by its name.
    """
    folder = Path(folder)
    base = read_posterior_config(folder).base_model.name
    if not is_on_hub(base):
        warnings.warn(
            f"{folder} was fitted to {base!r}, which is not a model on the Hub; whoever loads "
            f"{repo_id} has to give load_posterior the network itself",
            stacklevel=2,
        )
    client = client or HfApi(library_name="blob_pyro", library_version=__version__)
    # The owner may be left out, and the Hub then adds it.
    repo = client.create_repo(repo_id, private=private, exist_ok=True)
    client.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        allow_patterns=[*HASHED_FILES, FEATURES_FILE, CONFIG_FILE, CARD_FILE],
        commit_message=commit_message,
    )
    return str(repo)


def _plain(text: object) -> str:
    r"""Give a text that Markdown shows as it is, on one line.

    Examples
    --------
    >>> print(_plain("a|b <i>"))
    a\|b \<i\>
    """
    shown = re.sub(r"([\\`*_{}\[\]<>()#|!~&$])", r"\\\1", " ".join(str(text).split()))
    # Control characters, which a terminal that shows the card would obey.
    return "".join(c if c.isprintable() else f"\\\\u{ord(c):04x}" for c in shown)
