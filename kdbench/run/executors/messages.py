"""What a worker process is told at its start, and what it says beside events and results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kdbench.run.executors.strangers import Stranger
from kdbench.run.outcome import Event, Stepped, one_line


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

    kind: str  # name of its class; empty: the sentence says it all
    sentence: str

    @classmethod
    def of(cls, error: Exception) -> Raised:
        """What is said of an error.

        >>> Raised.of(ValueError("no such pair")), Raised.of(OSError("gone"))
        (Raised(kind='', sentence='no such pair'), Raised(kind='OSError', sentence='gone'))
        """
        return cls("" if isinstance(error, ValueError) else type(error).__name__, one_line(error))


@dataclass(frozen=True)
class Interrupted:
    """A worker was asked to end, and does."""


class Gathered:
    """Events on their way to another process: steps are added up, and said every ``often`` seconds at most.

    >>> said = []
    >>> gathered = Gathered(said.append, often=60.0)
    >>> for lanes in (2, 2, 3):
    ...     gathered(Stepped(lanes))
    >>> gathered.flush()
    >>> said
    [Stepped(lanes=2), Stepped(lanes=5)]
    """

    def __init__(self, say: Callable[[object], None], often: float) -> None:
        self._say, self._often = say, often
        self._steps, self._told = 0, float("-inf")

    def __call__(self, event: Event) -> None:
        """An event; what was gathered is said before it."""
        if isinstance(event, Stepped):
            self._steps += event.lanes
            if time.monotonic() - self._told >= self._often:
                self.flush()
            return
        self.flush()
        self._say(event)

    def flush(self) -> None:
        """Say what was gathered."""
        steps, self._steps, self._told = self._steps, 0, time.monotonic()
        if steps:
            self._say(Stepped(steps))
