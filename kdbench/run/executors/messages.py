"""What a worker process is told at its start, and what it says beside events and results."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.run.executors.strangers import Stranger


@dataclass(frozen=True)
class Begin:
    """The first thing that a worker hears."""

    device: str
    strangers: tuple[Stranger, ...]  # loaded before any cell is looked at
    images: bytes | None  # see ``lend``; None: to be read anew
    sharing: int = 1  # workers on this device


@dataclass(frozen=True)
class Ready:
    """A worker has started, and its device is in order."""


@dataclass(frozen=True)
class Unfit:
    """A worker lacks what it needs, or its device is not in order; the sentence says why."""

    sentence: str
    device: bool  # others may be in order


@dataclass(frozen=True)
class Raised:
    """A unit has ended with an error; nothing of the error itself is sent, which might not survive it."""

    kind: str  # name of its class
    sentence: str


@dataclass(frozen=True)
class Interrupted:
    """A worker was asked to end, and does."""
