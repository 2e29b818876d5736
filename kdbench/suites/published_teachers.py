"""Published teachers: where one lies, what its file is, and what it was trained with; ``teachers.toml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kdbench.suites._files import HOME, find, nearest, read, sentence
from kdbench.suites.kinds import Finite, Positive, Said
from kdbench.utils.wording import quoted

#: Bytes of a teacher's file, at most; letters of an entry's name.
LARGEST, LONGEST = 2**36, 100


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or not text.isprintable() or " " in text:
        raise ValueError(f"an address begins with https:// and has no blank in it, not {quoted(text)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}", _last(text)):
        raise ValueError(f"an address ends with the name of a file, not {quoted(text)}")
    return text


def _last(address: str) -> str:
    return unquote(urlsplit(address).path).rpartition("/")[2]


def _plain(text: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{LONGEST - 1}}}", text):
        raise ValueError(f"a teacher's name has letters, digits and ._+- in it, not {quoted(text)}")
    return text


class PublishedTeacher(BaseModel):
    """One entry of the table.

    >>> one = load_published()[0]
    >>> one.file, one.normalisation
    ('cifar100_resnet56-f2eff4c8.pt', '0.507,0.4865,0.4409/0.2673,0.2564,0.2761')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_plain)]  # no two alike
    network: Said
    dataset: Said
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
    licence: Said
    top1: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]  # as stated, percent on the test set
    address: Annotated[str, AfterValidator(_address)]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]

    @property
    def file(self) -> str:
        """Name of the file behind the address."""
        return _last(self.address)

    @property
    def normalisation(self) -> str:
        """As ``--normalisation`` takes it."""
        return "/".join(",".join(map(repr, numbers)) for numbers in (self.mean, self.std))


def load_published(table: str | None = None) -> list[PublishedTeacher]:
    """Every teacher of kdbench's table, or of a TOML file of the user's.

    Raises:
        ValueError: there is no such file, or it does not say what a table must.

    >>> [(one.name, one.top1) for one in load_published()]
    [('chenyaofo-resnet56', 72.63)]
    """
    file = HOME / "teachers.toml" if table is None else find("teachers'", table, (), "")[0]
    raw = read(file)
    entries: Any = raw.get("teacher")
    if set(raw) != {"teacher"} or not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ValueError(f"{file.name} is a table of teachers, so it has [[teacher]] entries and nothing else")
    found: list[PublishedTeacher] = []
    for number, entry in enumerate(entries, 1):
        try:
            one = PublishedTeacher.model_validate(entry)
        except ValidationError as error:
            raise ValueError(f"{file.name}, teacher {number}: {sentence(error)}") from error
        if one.name in {other.name for other in found}:
            raise ValueError(f"{file.name} has two teachers named {quoted(one.name)}")
        found.append(one)
    return found


def choose(found: Sequence[PublishedTeacher], name: str, network: str | None, dataset: str) -> PublishedTeacher:
    """The teacher of a name, or of a network, for a data set.

    Args:
        found: the table.
        name: as the user wrote it.
        network: the network's own name, if there is one of that name.
        dataset: of the suite.

    Raises:
        ValueError: there is none, or several; the sentence names those that there are.

    >>> choose(load_published(), "resnet56", "resnet56", "cifar100").licence
    'BSD-3-Clause'
    """
    here = [one for one in found if one.dataset == dataset]
    named = [one for one in here if one.name == name] or [one for one in here if network and one.network == network]
    if len(named) > 1:
        raise ValueError(
            f"several teachers {name} are published for {dataset}: name one of {', '.join(one.name for one in named)}"
        )
    if not named:
        if not here:
            raise ValueError(
                f"no teacher for {dataset} is in the table of published ones, {quoted(name)} or other; --suite says"
                " for what data one is wanted, `kdbench list teachers` shows them,"
                " `kdbench teacher import` takes over any file"
            )
        raise ValueError(
            f"no published teacher {quoted(name)} for {dataset}; {nearest(name, [one.network for one in here])}"
        )
    return named[0]


def published_for(network: str, dataset: str) -> PublishedTeacher | None:
    """The first teacher of kdbench's own table that is such a network, trained on such data."""
    try:
        return next((one for one in load_published() if (one.network, one.dataset) == (network, dataset)), None)
    except (ValueError, OSError):  # the table was edited; whoever fetches is told
        return None


def hint(network: str, dataset: str, suite: str) -> str:
    """A sentence where a teacher that is to be trained can be fetched instead; else empty.

    >>> hint("resnet56", "cifar100", "semckd")
    'a published resnet56 (72.63%) can be had instead: kdbench teacher fetch resnet56 --suite semckd'
    """
    one = published_for(network, dataset)
    if one is None:
        return ""
    known = suite.endswith(".toml") or (HOME / f"{suite}.toml").is_file()  # not a name that only the user's file has
    how = f"kdbench teacher fetch {network} --suite {suite if known else 'FILE.toml'}"
    return f"a published {network} ({one.top1:.2f}%) can be had instead: {how}"
