"""What a run tells while it goes on, and what became of it. All of it can be sent between processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from kdbench.engine.errors import text
from kdbench.engine.lane import Lane
from kdbench.record import Record
from kdbench.run.grid import Cell
from kdbench.utils import memory
from kdbench.utils.wording import printable


@dataclass(frozen=True)
class Note:
    """Something worth a line.

    >>> heard = []
    >>> Teller(heard.append).note("no teacher resnet20 for digits yet")
    >>> heard
    [Note(sentence='no teacher resnet20 for digits yet')]
    """

    sentence: str


@dataclass(frozen=True)
class GroupBegins:
    """Lanes begin, with so many (lanes x batches) ahead of them."""

    title: str
    lane_steps: int
    batch: int = 0  # images of a batch; 0 where nobody says


@dataclass(frozen=True)
class Skipped:
    """So many were trained in an earlier run or will not be trained."""

    lane_steps: int


@dataclass(frozen=True)
class Stepped:
    """A batch has been through so many lanes."""

    lanes: int


@dataclass(frozen=True)
class Standing:
    """How far one lane is.

    >>> Standing("kd on resnet20:resnet8, seed 0", epoch=3, total=30, done=False, failure=None).epoch
    3
    """

    key: str
    epoch: int
    total: int  # epochs of the present stage
    done: bool
    failure: str | None
    seconds: float = 0.0
    rate: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    top1: float | None = None
    val_top1: float | None = None
    ema_top1: float | None = None
    speed: float | None = None  # images per second of the lane's own time, in the last epoch
    memory: int | None = None  # bytes that the process holds which trains it, all lanes together
    file: str = ""  # of its checkpoint, which tells lanes apart

    @classmethod
    def of(cls, lane: Lane, memory: int | None = None) -> Standing:
        """That of a lane at the end of an epoch."""
        last = lane.curve[-1] if lane.curve else {}
        now = (lane.key, lane.epoch, lane.total, lane.done, lane.failure, lane.seconds)
        tops = (last.get("top1"), last.get("val_top1"), last.get("ema_top1"))
        terms = dict(last.get("terms", {}))
        return cls(*now, last.get("lr", 0.0), terms, *tops, _speed(lane), memory, str(lane.path))


def _speed(lane: Lane) -> float | None:
    """Images per second of the last epoch of the main stage; None where there is none."""
    if not lane.curve:
        return None
    if len(lane.curve) < 2 and lane.pretrain_total:  # the seconds are those of the pre-training stage, too
        return None
    seconds = lane.seconds - (lane.curve[-2]["seconds"] if len(lane.curve) > 1 else 0.0)
    return lane.images / len(lane.curve) / seconds if seconds > 0 and lane.images else None


def _memory(lanes: Sequence[Lane]) -> int | None:
    """Bytes: on CUDA the most that tensors have taken, else what of the process lies in main memory."""
    if lanes[0].device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(lanes[0].device)
    return memory.resident()


@dataclass(frozen=True)
class LanesBegin:
    """These lanes begin, or go on from where they stand."""

    stage: str
    lanes: tuple[Standing, ...]


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of these lanes is finished."""

    stage: str
    lanes: tuple[Standing, ...]


@dataclass(frozen=True)
class CellEnded:
    """A cell is done, failed, unsupported, or trained elsewhere."""

    cell: Cell
    status: str
    sentence: str


Event = Note | GroupBegins | LanesBegin | Skipped | Stepped | EpochEnded | CellEnded
Emit = Callable[[Event], None]


class Watcher(Protocol):
    """Who hears of a run, in this process.

    >>> class Quiet(Watcher):
    ...     def note(self, sentence):
    ...         print(sentence)
    >>> tell(Quiet(), Note("no teacher resnet20 for digits yet"))
    no teacher resnet20 for digits yet
    >>> tell(Quiet(), Stepped(3))
    """

    def begin(self, lane_steps: int) -> None:
        """The run begins; so many (lanes x batches) are ahead of it."""

    def note(self, sentence: str) -> None:
        """See ``Note``."""

    def group(self, title: str, lane_steps: int, batch: int = 0) -> None:
        """See ``GroupBegins``."""

    def skip(self, lane_steps: int) -> None:
        """See ``Skipped``."""

    def step(self, lanes: int) -> None:
        """See ``Stepped``."""

    def epoch(self, stage: str, lanes: Sequence[Standing]) -> None:
        """See ``EpochEnded``."""

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """See ``CellEnded``."""


def tell(watch: Watcher, event: Event) -> None:
    """Hand an event to who listens.

    >>> class Loud(Watcher):
    ...     def step(self, lanes):
    ...         print(f"a step of {lanes} lanes")
    >>> tell(Loud(), Stepped(3))
    a step of 3 lanes
    """
    match event:
        case Note(sentence):
            watch.note(sentence)
        case GroupBegins(title, lane_steps, batch):
            watch.group(title, lane_steps, batch)
        case Skipped(lane_steps):
            watch.skip(lane_steps)
        case Stepped(lanes):
            watch.step(lanes)
        case EpochEnded(stage, standing):
            watch.epoch(stage, standing)
        case CellEnded(cell, status, sentence):
            watch.cell(cell, status, sentence)


@dataclass(frozen=True)
class Teller:
    """The engine's watcher: what it is told becomes events.

    >>> heard = []
    >>> Teller(heard.append).step(3)
    >>> heard
    [Stepped(lanes=3)]
    """

    emit: Emit

    def note(self, sentence: str) -> None:
        """Something worth a line."""
        self.emit(Note(sentence))

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""
        self.emit(Stepped(lanes))

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        """An epoch of these lanes is finished, evaluated and saved."""
        held = _memory(lanes)
        self.emit(EpochEnded(stage, tuple(Standing.of(lane, held) for lane in lanes)))


@dataclass
class Done:
    """What came of one group of cells.

    >>> Done().of("done")
    []
    """

    records: dict[Cell, Record] = field(default_factory=dict)  # written by it
    found: list[Cell] = field(default_factory=list)  # finished by another process before the lock was ours
    failed: dict[Cell, str] = field(default_factory=dict)  # every failure, written down or not
    elsewhere: list[Cell] = field(default_factory=list)  # another process has them
    stopped: str = ""  # the sentence with which the whole run must end (disk full, --fail-fast)
    untaught: str = ""  # why the teacher cannot be had

    def of(self, status: str) -> list[Cell]:
        """Cells whose record says so."""
        return [cell for cell, one in self.records.items() if one.status == status]

    def ended(self, cell: Cell) -> bool:
        """Whether nothing is left to do for a cell."""
        return cell in self.records or cell in self.failed or cell in self.found or cell in self.elsewhere


@dataclass
class Outcome:
    """What became of the cells that were asked for.

    >>> Outcome().exit_code
    0
    """

    done: list[Cell] = field(default_factory=list)
    unsupported: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    elsewhere: list[Cell] = field(default_factory=list)  # another process has them

    def add(self, group: Done) -> None:
        """Count in what came of a group."""
        self.done += [*group.found, *group.of("done")]
        self.unsupported += group.of("unsupported")
        self.failed |= group.failed
        self.elsewhere += group.elsewhere

    @property
    def exit_code(self) -> int:
        """0: every asked cell is there or refused by its method; 1: some is missing."""
        missing = self.failed or self.elsewhere or (self.unsupported and not self.done)
        return 1 if missing else 0


class Stop(Exception):
    """The run ends early with this sentence (--fail-fast, disk full).

    >>> raise Stop("no space is left in results")
    Traceback (most recent call last):
    kdbench.run.outcome.Stop: no space is left in results
    """


def one_line(reason: object) -> str:
    """A sentence, or what an error says, as one printable line; never raises.

    >>> one_line(ValueError("no such suite"))
    'no such suite'
    """
    return text(reason) if isinstance(reason, BaseException) else printable(str(reason))
