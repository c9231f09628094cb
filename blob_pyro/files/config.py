"""The configuration of a saved posterior: its entries, and the files that it vouches for."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, Field, JsonValue, model_validator

from blob_pyro.diagnostics import AnswerThresholds
from blob_pyro.files.adapter import ADAPTER_CONFIG, ADAPTER_FILE, read_json
from blob_pyro.files.atomic import recover
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior, Prior
from blob_pyro.networks.reading import reading
from blob_pyro.settings import Settings

FORMAT_VERSION = 3
CONFIG_FILE = "posterior_config.json"
POSTERIOR_FILE = "posterior.safetensors"
HASHED_FILES = (ADAPTER_CONFIG, ADAPTER_FILE, POSTERIOR_FILE)
# There only if it is among the checksums.
FEATURES_FILE = "features.safetensors"

_PRIORS: dict[str, Any] = {kind.__name__: kind for kind in (NormalPrior, HierarchicalNormalPrior)}


class Record(BaseModel):
    """Entries of a file, of strict types; an unknown one is refused."""

    model_config = {**Settings.model_config, "serialize_by_alias": True}


class Made(Record):
    """An object: its class, and the arguments that make it again."""

    name: str = Field(alias="class", pattern=r"^\w+$")
    arguments: dict[str, JsonValue]


class PriorRecord(Record):
    """A prior; one of the user's own has no arguments here."""

    name: str = Field(alias="class")
    arguments: dict[str, JsonValue] | None

    @classmethod
    def of(cls, prior: Prior) -> Self:
        """Describe a prior.

        Examples
        --------
        >>> PriorRecord.of(NormalPrior(0.2)).model_dump()
        {'class': 'NormalPrior', 'arguments': {'scale': 0.2}}
        >>> def wide(site):
        ...     return None
        >>> PriorRecord.of(wide).model_dump()
        {'class': 'wide', 'arguments': None}
        """
        name = getattr(prior, "__qualname__", type(prior).__qualname__)
        # A subclass may do anything else, which its arguments do not tell.
        arguments = cast(Any, prior).config() if type(prior) in _PRIORS.values() else None
        return cls.model_validate({"class": name, "arguments": arguments})

    def make(self, folder: Path, given: Prior | None) -> Prior:
        """Make the prior that a posterior was fitted under.

        Parameters
        ----------
        folder
            The posterior's, for errors.
        given
            The user's, needed for one of the user's own; else None.

        Raises
        ------
        ValueError
            If one is needed and not given, or another one is given than the record says.
        """
        if self.arguments is None:
            if given is None:
                raise ValueError(
                    f"{folder} was fitted under the prior {self.name}, which is not one of "
                    "blob_pyro's; pass prior=... to load_posterior"
                )
            return given
        if given is not None and PriorRecord.of(given) != self:
            raise ValueError(
                f"{folder} was fitted under {self.name}({self.arguments}) but prior is {given}; "
                "leave prior out"
            )
        make: Callable[..., Prior] = known(folder, self.name, _PRIORS.__getitem__)
        with reading(folder / CONFIG_FILE):
            return make(**self.arguments)


class AnswersRecord(AnswerThresholds):
    """When a posterior answers: at what confidence, and how it predicted the held-out examples."""

    max_error: float = Field(gt=0, lt=1)
    num_samples: int = Field(ge=0)
    seed: int
    temperature: float | list[float]
    learned: str

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        self.best(self.max_error)
        return self

    @property
    def threshold(self) -> float:
        """Probability from which on an answer is given."""
        return self.thresholds[self.best(self.max_error)]

    def hold_for(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether predictions of these settings are like those that it was chosen for."""
        return all(getattr(self, name) == value for name, value in settings.items())

    def __str__(self) -> str:
        best = self.best(self.max_error)
        answered, errors = self.answered[best], self.errors[best]
        return (
            f"from a probability of {self.threshold:.4f} on, so that at most {self.max_error:.3g} "
            f"are wrong ({self.confidence_level:.3g} sure); {answered} of {self.num_examples} "
            f"held-out examples, {errors} of them wrong"
        )


class ModelRecord(Made):
    """The likelihood."""

    num_data: int = Field(ge=1)
    num_classes: Annotated[int, Field(ge=1)] | None
    prior: PriorRecord
    latent: list[Literal["A", "B"]]
    temperature: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]] | None


class BaseRecord(Record):
    """The network that was fine-tuned; see :func:`blob_pyro.networks.base_identity`."""

    name: str | None
    saved_modules: list[Annotated[str, Field(min_length=1)]]
    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    shapes: str
    # Formats 1 and 2 had values, a digest of 16 numbers of each weight, in the place of these.
    weights: str | None = None
    config: dict[str, JsonValue] | None = None
    # Absent if the weights were not quantised.
    quantization: dict[str, JsonValue] | None = None
    tokenizer: str | None = None
    values: str | None = None


class PosteriorConfig(Record):
    """The content of ``posterior_config.json``."""

    format_version: Literal[1, 2, 3]
    guide: Made
    model: ModelRecord
    base_model: BaseRecord
    adapter: Annotated[dict[Literal["float32"], bool], Field(min_length=1)]
    pooling: Literal["head", "mean"] = "head"
    task: dict[str, JsonValue]
    answers: AnswersRecord | None = None
    method: str | None = None
    versions: Annotated[dict[str, str], Field(min_length=1)]
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        wanted, temperature = self.model.num_classes, self.model.temperature
        if isinstance(temperature, list) and len(temperature) != wanted:
            raise ValueError(
                f"model.temperature has {len(temperature)} numbers for {wanted} classes"
            )
        names = self.task.get("class_names")
        if (
            wanted
            and isinstance(names, list)
            and not len(names) == len({*map(str, names)}) == wanted
        ):
            raise ValueError(f"task.class_names is {names!r:.100}, where {wanted} names are needed")
        return self


def read_posterior_config(folder: Path) -> PosteriorConfig:
    """Read the configuration of a posterior and check the files beside it against it.

    Parameters
    ----------
    folder
        The posterior's folder.

    Returns
    -------
    PosteriorConfig
        All that :func:`~blob_pyro.files.load_posterior` needs.

    Raises
    ------
    ValueError
        If it cannot be read, is of another version, lacks an entry, or a file beside it is missing
        or not the one that was saved.
    """
    if not folder.exists():
        recover(folder)
    path = folder / CONFIG_FILE
    content = read_json(path)
    written = content.get("format_version")
    if type(written) is not int or not 1 <= written <= FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version={written!r} but this library reads 1 to {FORMAT_VERSION}; "
            "use the version of blob_pyro that wrote it"
        )
    with reading(path):
        if written == 1:
            # What every model was before it could be otherwise.
            content["model"] = {"latent": ["A"], "temperature": 1.0, **content["model"]}
        config = PosteriorConfig.model_validate(content)
    # These names and no others: a name from the file could be a path to anywhere.
    for name in (*HASHED_FILES, *({FEATURES_FILE} & config.sha256.keys())):
        _check_file(folder / name, config.sha256.get(name))
    return config


def known(folder: Path, name: str, find: Callable[[str], Any]) -> Any:
    """Find what a posterior's configuration names, or raise a ``ValueError``.

    Only what is known by name is made: a file could ask for anything.
    """
    try:
        return find(name)
    except KeyError:
        raise ValueError(
            f"{folder / CONFIG_FILE} asks for the class {name!r}, which is not known here; import "
            "the module that defines it, or use the version of blob_pyro that wrote it"
        ) from None


def _check_file(path: Path, checksum: str | None) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; restore the folder from a copy")
    if sha256_of(path) != checksum:
        raise ValueError(
            f"{path} is not the file that was saved (its checksum differs): it was cut short, "
            "changed or taken from elsewhere; restore the folder from a copy"
        )


def sha256_of(path: Path) -> str:
    """Compute the checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
