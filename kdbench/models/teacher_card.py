"""What is known of a stored teacher: a JSON file beside its weights, sealed with a checksum."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.models.renormalise import Normalisation
from kdbench.utils import sealed
from kdbench.utils.sealing import checksum

FORMAT: Literal[2] = 2  # of the card; cards of kdbench 0.1.0 say none and are read as format 1

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataIdentity(BaseModel):
    """Which images a teacher learned from and was measured on.

    >>> whole, part = DataIdentity(counts={"train": 50_000}), DataIdentity(counts={"train": 100})
    >>> whole.differs(part)
    'there were 50,000 train images, there are 100'
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    fingerprint: str | None = None  # of pixels and labels; None: not to be compared, as for a part of the data
    classes: tuple[str, ...] | None = None  # in the order of the labels
    counts: dict[str, int] = {}  # images of each part

    def differs(self, here: DataIdentity) -> str:
        """How the data here are other data, as the end of a sentence; "" where they are the same."""
        if self.classes is not None and here.classes is not None and self.classes != here.classes:
            if len(self.classes) != len(here.classes):
                return f"{len(self.classes)} classes were {len(here.classes)}"
            k = next(k for k, pair in enumerate(zip(self.classes, here.classes, strict=True)) if len(set(pair)) > 1)
            return f"class {k} was {self.classes[k]}, is {here.classes[k]}"
        for part in self.counts.keys() & here.counts.keys():
            if self.counts[part] != here.counts[part]:
                return f"there were {self.counts[part]:,} {part} images, there are {here.counts[part]:,}"
        if self.fingerprint is None or here.fingerprint is None or self.fingerprint == here.fingerprint:
            return ""
        return f"the images or their labels are others ({self.fingerprint[:8]}, here {here.fingerprint[:8]})"


class TeacherCard(BaseModel):
    """A stored teacher. What a card of an older format did not say is None.

    >>> from kdbench.models import create, teachers
    >>> facts = {"dataset": "digits", "num_classes": 10, "image_size": 8, "source": "trained", "recipe": {}}
    >>> card = teachers.store(Path("teachers"), create("resnet8", 10), name="resnet8", top1=97.5, **facts)
    >>> card.top1, card.dtype, card.sealed
    (97.5, 'float16', True)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = FORMAT
    name: str
    dataset: str
    num_classes: int = Field(ge=1)
    image_size: int = Field(ge=1)
    sha256: Sha256  # of the safetensors file
    top1: (
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None
    )  # percent on the test set, last epoch; None: not measured
    source: Literal["trained", "imported"]
    dtype: Literal["float16", "float32"]  # of the file; in memory a teacher is float32
    recipe: dict[str, Any]
    origin: str  # file that it was imported from, without its folder
    kdbench: str  # version that wrote it
    created: str  # ISO 8601, UTC
    data: DataIdentity | None = None
    mean: tuple[Finite, ...] | None = None  # its own normalisation, which it sees images in whatever the student's
    std: tuple[Positive, ...] | None = None
    precision: str | None = None  # in which top1 was measured
    pretrained: str | None = None  # as ``Tapped.pretrained``
    checksum: str = ""  # over all the rest; "" in an old card, which nobody can vouch for

    @property
    def sealed(self) -> bool:
        """Whether the card can tell that it was edited."""
        return bool(self.checksum)

    @property
    def normalisation(self) -> Normalisation | None:
        """Its own; None where the card does not say."""
        return None if self.mean is None or self.std is None else Normalisation.of(self.mean, self.std)


def seal(card: TeacherCard) -> TeacherCard:
    """The card as it is written: in the present format, with its checksum."""
    values = json.loads(card.model_copy(update={"format": FORMAT}).model_dump_json(exclude={"checksum"}))
    return TeacherCard.model_validate(values | {"checksum": checksum(values)})


def text(card: TeacherCard) -> str:
    """The file's content."""
    return card.model_dump_json(indent=1) + "\n"


def read(where: Path, *, note: Callable[[str], None] | None = None) -> TeacherCard:
    """The card in a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no card, was edited, or is of a newer kdbench; one sentence.

    >>> _ = Path("card.json").write_text("[]")
    >>> read(Path("card.json"))
    Traceback (most recent call last):
    ValueError: card.json is not a teacher's card: it holds no fields
    """
    values = sealed.fields(where)
    if not values:
        raise ValueError(f"{where} is not a teacher's card: it holds no fields")
    if "format" not in values and "checksum" not in values:
        return _old(where, values, note)
    if values.get("format") != FORMAT:
        raise ValueError(f"{where} has card format {values.get('format')!r}, this kdbench reads up to {FORMAT}")
    if values.get("checksum") != checksum({key: value for key, value in values.items() if key != "checksum"}):
        raise ValueError(
            f"{where} was changed after it was written: its checksum differs; restore it, or remove it and train or"
            " import the teacher anew"
        )
    return _card(where, values)


def _old(where: Path, values: Mapping[str, Any], note: Callable[[str], None] | None) -> TeacherCard:
    """A card of format 1: nothing seals it; a teacher that kdbench trained has its normalisation in its recipe."""
    card = _card(where, dict(values) | {"format": 1})
    if card.source == "trained" and {"mean", "std"} <= set(card.recipe):
        card = _card(where, dict(values) | {"format": 1, "mean": card.recipe["mean"], "std": card.recipe["std"]})
    if note is not None:
        note(
            f"the card {where.name} is of kdbench {card.kdbench}, not sealed, and does not say which data it is for;"
            f" `kdbench teacher verify {card.name}` measures the teacher again and seals it"
        )
    return card


def _card(where: Path, values: Mapping[str, Any]) -> TeacherCard:
    try:
        return TeacherCard.model_validate_json(json.dumps(values))
    except (ValidationError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise ValueError(f"{where} is not a teacher's card: it is nested too deeply") from error
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} is not a teacher's card: {at + ': ' if at else ''}{first['msg']}") from error
