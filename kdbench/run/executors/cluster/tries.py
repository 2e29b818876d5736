"""One try of a unit on a cluster, and how what came of it is said."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from kdbench.data import Dataset
from kdbench.run.executors.cluster.orders import Began
from kdbench.run.executors.cluster.parcel import Roots
from kdbench.run.executors.unit import Unit
from kdbench.run.group import Work
from kdbench.run.outcome import Done, EpochEnded, Event, LanesBegin, one_line
from kdbench.run.pulse import GroupPulse


@dataclass
class Try:
    """One try of a unit, from when it is sent to its answer."""

    unit: Unit
    work: Work  # as it was sent: without cells that are nobody's business here
    ticket: int
    known: Done = field(default_factory=Done)  # what the driver itself has found of its cells
    began: Began | None = None
    pulse: GroupPulse | None = None  # likewise: the node's signs of life are not seen
    held: ExitStack = field(default_factory=ExitStack)  # claims and signs of life


def joined(one: Done, other: Done) -> Done:
    """Of the same unit."""
    return replace(
        other,
        found=[*one.found, *other.found],
        failed=one.failed | other.failed,
        elsewhere=[*one.elsewhere, *other.elsewhere],
        stopped=one.stopped or other.stopped,
    )


def named(event: Event, one: Try) -> Event:
    """An event with the paths of checkpoints as the run was asked for them."""
    if not isinstance(event, LanesBegin | EpochEnded):
        return event
    there, mine = Roots.of(one.work) if one.began is None else one.began.roots, Roots.of(one.unit.work)
    return replace(event, lanes=tuple(replace(lane, file=there.moved(lane.file, mine)) for lane in event.lanes))


def way(error: BaseException, errors: Any) -> str:
    """How a process was lost, for a sentence."""
    if isinstance(error, errors.OutOfMemoryError):
        return "Ray ended it, because the node's memory ran out"
    if isinstance(error, errors.NodeDiedError):
        return "its node is gone"
    if isinstance(error, errors.WorkerCrashedError):
        return "its process is gone: killed, crashed, or out of memory"
    return one_line(first(error))


def first(error: BaseException) -> str:
    """Line of what an error says."""
    return str(error).strip().partition("\n")[0]


def last(error: BaseException) -> str:
    """Of an error that has a whole traceback in it."""
    return one_line(str(error).strip().rpartition("\n")[2])


def size(images: Dataset) -> int:
    """Bytes of the pictures where they lie in memory."""
    parts = (images.train_images, images.test_images)
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))
