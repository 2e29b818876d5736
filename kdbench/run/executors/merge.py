"""One stream of events from many workers, as a single process would tell them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdbench.run.grid import Cell
from kdbench.run.outcome import CellEnded, Emit, Event, GroupBegins, Note, Skipped, Stepped


@dataclass
class _Heard:
    """Of one unit that is under way."""

    worker: object
    title: str = ""
    left: int = 0  # lane-steps of its present group
    batch: int = 0
    counted: int = 0  # lane-steps that the run was told of
    ended: dict[Cell, CellEnded] = field(default_factory=dict)


class Merged:
    """Hears the events of units, and tells them on.

    What several groups have under way is one group with all their titles; a sentence that two workers say is said
    once; what a lost worker had counted is taken back, for the next one counts it again.

    >>> heard = []
    >>> merged = Merged(heard.append)
    >>> merged.hear("one", 0, GroupBegins("resnet20, seed 0", 30))
    >>> merged.hear("two", 1, GroupBegins("resnet20, seed 1", 20))
    >>> merged.hear("two", 1, Stepped(5))
    >>> merged.lost(1)
    {}
    >>> heard[1:]  # doctest: +NORMALIZE_WHITESPACE
    [GroupBegins(title='resnet20, seed 0 | resnet20, seed 1', lane_steps=50, batch=0), Stepped(lanes=5),
     Skipped(lane_steps=-5), GroupBegins(title='resnet20, seed 0', lane_steps=30, batch=0)]
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._units: dict[int, _Heard] = {}
        self._said: dict[str, object] = {}

    def hear(self, worker: object, number: int, event: Event) -> None:
        """An event of unit ``number``, which ``worker`` does."""
        heard = self._units.setdefault(number, _Heard(worker))
        match event:
            case Note(sentence):
                if self._said.setdefault(sentence, worker) == worker:
                    self._emit(event)
                return
            case GroupBegins(title, lane_steps, batch):
                heard.title, heard.left, heard.batch = title, lane_steps, batch
                self._begin()
                return
            case Skipped(lane_steps):
                heard.counted += lane_steps
            case Stepped(lanes):
                heard.counted += lanes
                heard.left = max(0, heard.left - lanes)
            case CellEnded(cell):
                heard.ended[cell] = event
        self._emit(event)

    def over(self, number: int) -> None:
        """A unit has ended."""
        if (gone := self._units.pop(number, None)) is not None and gone.title:
            self._begin()

    def lost(self, number: int) -> dict[Cell, CellEnded]:
        """A unit's worker is lost; returns what had become of its cells by then."""
        gone = self._units.pop(number, None)
        if gone is None:
            return {}
        if gone.counted:
            self._emit(Skipped(-gone.counted))
        if gone.title:
            self._begin()
        return gone.ended

    def _begin(self) -> None:
        shown = [heard for heard in self._units.values() if heard.title]
        if not shown:
            return
        batches = {heard.batch for heard in shown}
        titles = " | ".join(dict.fromkeys(heard.title for heard in shown))
        self._emit(GroupBegins(titles, sum(heard.left for heard in shown), batches.pop() if len(batches) == 1 else 0))
