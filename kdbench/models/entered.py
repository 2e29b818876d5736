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

    >>> Own(nn.Identity, ("stem",), "fc", file="").sha256
    ''
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

    >>> "resnet20" in names()  # the zoo's are elsewhere
    False
    """
    return sorted(ENTERED)


def find(name: str) -> Own | None:
    """What a name stands for; None: it is no network of the user's.

    >>> find("resnet20") is None
    True
    """
    return ENTERED.get(name)
