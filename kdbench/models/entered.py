"""Names of the user's own networks, and what each stands for; ``kdbench.models.own`` enters them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

Make = Callable[..., nn.Module]


@dataclass(frozen=True)
class Own:
    """What was registered.

    >>> own = Own(lambda num_classes: nn.Linear(3, num_classes), stages=(), classifier="", file="no such file")
    >>> own.make(5).out_features, own.sha256
    (5, '')
    """

    make: Make
    stages: tuple[str, ...]
    classifier: str
    file: str

    @property
    def sha256(self) -> str:
        """Of the file that builds it; as a name of weights would, it tells one network of this name from another."""
        try:
            return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()
        except OSError:
            return ""


ENTERED: dict[str, Own] = {}


def names() -> list[str]:
    """What was registered.

    >>> from unittest.mock import patch
    >>> with patch.dict(ENTERED, {"mine": Own(nn.Linear, ("0",), "4", "mine.py")}, clear=True):
    ...     names()
    ['mine']
    """
    return sorted(ENTERED)


def find(name: str) -> Own | None:
    """What a name stands for; None: it is no network of the user's.

    >>> find("resnet8") is None
    True
    """
    return ENTERED.get(name)
