"""What an area of the campaign is, and what it says when something does not hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Fault(AssertionError):
    """Something did not hold; the text says what."""


@dataclass(frozen=True)
class Try:
    """One try: its own name, random numbers, and an empty folder."""

    name: str
    draw: random.Random
    folder: Path
    #: What the area has prepared; it is not to be changed.
    home: Path


@dataclass(frozen=True)
class Area:
    """Tries of one kind.

    ``prepare`` makes, in an empty folder, what all tries start from. ``names`` gives the tries of that folder, the
    first so many of which are run. ``hold`` runs one, returns what it counts for, and raises ``Fault``.
    """

    name: str
    usual: int  # of a whole campaign
    prepare: Callable[[Path], None]
    names: Callable[[Path, int], list[str]]
    hold: Callable[[Try], int]


def drawn(seed: int, area: str, name: str) -> random.Random:
    """The random numbers of a try, which depend on nothing else."""
    return random.Random(f"{seed}/{area}/{name}")
