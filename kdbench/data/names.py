"""The word that names a data set: ``imagefolder:PATH@SIZE`` taken apart, made absolute, made a folder's name."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

#: Pixels to which the pictures of a folder are cut unless told.
USUAL_SIZE = 64
_LEAST = 8


class ImageFolder(NamedTuple):
    """``imagefolder:PATH@SIZE``."""

    path: Path  # absolute
    size: int  # pixels

    def __str__(self) -> str:
        return f"imagefolder:{self.path}@{self.size}"


def image_folder(word: str) -> ImageFolder | None:
    """The folder that a word names, from the current folder on; None: it names another kind of data set.

    What follows the last ``@`` is the size, unless there is a ``/`` in it.

    Raises:
        ValueError: no folder, or a size that is none.

    >>> image_folder("imagefolder:/data/pets@96")
    ImageFolder(path=PosixPath('/data/pets'), size=96)
    >>> image_folder("cifar100") is None
    True
    """
    kind, colon, rest = word.partition(":")
    if kind != "imagefolder" or not colon:
        return None
    where, at, size = rest.rpartition("@")
    if not at or "/" in size:
        where, size = rest, str(USUAL_SIZE)
    if not where.strip() or "\0" in where:
        raise ValueError(f"{word!r} names no folder; write imagefolder:PATH@{USUAL_SIZE}")
    if not re.fullmatch("[0-9]{1,5}", size, re.ASCII) or int(size) < _LEAST:
        raise ValueError(f"{word!r}: the size after @ is a number of pixels from {_LEAST} up, not {size!r}")
    return ImageFolder(Path(_absolute(where)), int(size))


class Hub(NamedTuple):
    """``huggingface:NAME@SIZE``."""

    name: str  # on the hub, or a folder saved to disk
    size: int  # pixels

    def __str__(self) -> str:
        return f"huggingface:{self.name}@{self.size}"


def hub(word: str) -> Hub | None:
    """The data set of Hugging Face that a word names; None: it names another kind.

    >>> str(hub("huggingface:beans@128")), str(hub("huggingface:beans"))
    ('huggingface:beans@128', 'huggingface:beans@64')

    Raises:
        ValueError: no name, or a size that is none.
    """
    kind, colon, rest = word.partition(":")
    if kind != "huggingface" or not colon:
        return None
    name, _, size = rest.rpartition("@") if "@" in rest else (rest, "", str(USUAL_SIZE))
    if not name.strip() or not re.fullmatch("[0-9]{1,5}", size, re.ASCII) or int(size) < _LEAST:
        raise ValueError(f"{word!r} is not written huggingface:NAME@SIZE, with a size in pixels from {_LEAST} up")
    return Hub(name, int(size))


#: Data sets of which the pictures are cut to squares: the side in pixels unless told, as in ``imagenet@256``.
SIZES = {"cinic10": 32, "cub200": 256, "imagenet": 256, "tinyimagenet": 64}


def sized(word: str) -> tuple[str, int] | None:
    """``imagenet@256`` -> its name and size; None: it names another kind of data set.

    Raises:
        ValueError: a size that is none.
    """
    name, at, size = word.partition("@")
    if name not in SIZES:
        return None
    if at and (not re.fullmatch("[0-9]{1,5}", size, re.ASCII) or int(size) < _LEAST):
        raise ValueError(f"{word!r}: the size after @ is a number of pixels from {_LEAST} up, not {size!r}")
    return name, int(size) if at else SIZES[name]


#: Side in pixels of the pictures of data sets that have one size only.
FIXED = {"cifar10": 32, "cifar100": 32, "digits": 8, "stl10": 96}


def side(word: str) -> int | None:
    """Side in pixels of a data set's pictures, as its word tells; None: it does not.

    >>> side("imagenet"), side("imagenet@64"), side("cifar100"), side("mine")
    (256, 64, 32, None)
    """
    found = image_folder(word) or hub(word) or sized(word)
    return found[1] if found else FIXED.get(word)


def canonical(word: str) -> str:
    """The word as it is kept: a folder's path is absolute, its size is there; a data set's usual size is not.

    >>> canonical("imagenet@256"), canonical("imagenet@64"), canonical("imagefolder:/pets")
    ('imagenet', 'imagenet@64', 'imagefolder:/pets@64')
    """
    if found := sized(word):
        name, size = found
        return name if size == SIZES[name] else f"{name}@{size}"
    return str(image_folder(word) or hub(word) or word)


def safe_name(word: str) -> str:
    """What a data set is called among the files of an output folder: one name, never a path, no two alike.

    ``cifar100`` stays; of ``imagefolder:../../..`` it is the folder's last name and 12 digits of a hash of the whole.

    >>> safe_name("cifar100"), safe_name("imagefolder:/data/pets@96")
    ('cifar100', 'imagefolder-pets-96-3ee4420ad733')
    """
    try:
        found = image_folder(word)
    except ValueError:
        found = None
    whole = str(found or word)
    if re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}", whole):
        return whole
    last = f"imagefolder-{found.path.name}-{found.size}" if found else whole
    slug = re.sub("[^A-Za-z0-9]+", "-", last).strip("-")[:40].rstrip("-") or "data"
    return f"{slug}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]}"


def _absolute(path: str) -> str:
    """From the current folder on; ``..`` is followed as the system does, and other links are left as they are."""
    path = os.path.expanduser(path)
    return os.path.realpath(path) if ".." in Path(path).parts else os.path.abspath(path)
