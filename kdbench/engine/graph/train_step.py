"""Captured steps that are trusted because they are looked at: compared with the same steps, called (``proof``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from kdbench.distiller import Outputs
from kdbench.engine.graph.backend import Machine
from kdbench.engine.graph.cached_teacher import Resident
from kdbench.engine.graph.canary import Canary
from kdbench.engine.graph.capturable import CannotCapture as CannotCapture
from kdbench.engine.graph.capturable import capturable
from kdbench.engine.graph.proof import COMPILED, Moment, difference, due
from kdbench.engine.graph.rollback import undone
from kdbench.engine.graph.steps import Planned, Steps, Track
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane
from kdbench.engine.precision import put_switches, switches
from kdbench.engine.shared import Shown
from kdbench.utils.wording import count


class Captured(Steps):
    """``Steps`` of which one repeat can be compared with the step, called.

    >>> import torch
    >>> from kdbench.data import Loader
    >>> from kdbench.engine.graph.backend import Eager
    >>> from kdbench.testing.examples import lanes, setting
    >>> images, labels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.arange(8) % 5
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> step = Captured(loader, lanes("kd"), "train", show=setting().teacher, machine=Eager(), note=print)
    >>> len(list(step.epoch(0)))
    2
    """

    canary: Callable[[], None] | None = None  # compares the next epoch with the same epoch, called

    def epoch(self, epoch: int) -> Iterator[Shown]:
        """As ``Steps``."""
        yield from super().epoch(epoch)
        judge, self.canary = self.canary, None
        if judge is not None:
            judge()

    def prove(self, epoch: int, note: Callable[[str], None]) -> None:
        """Compare a repeat of every size with the step, called; a lane that differs leaves, the others are proven anew.

        Raises:
            CannotCapture: without it there is no graph.
        """
        while self._tracks and (found := self.faults(epoch)):
            for lane, why in found.items():
                if lane.failure:  # it says why itself
                    del self._tracks[lane]
                else:
                    self._leave_out(lane, why, note)
            if self._tracks:
                self._record_all(note)

    def faults(self, epoch: int) -> dict[Lane, CannotCapture]:
        """Of each lane whose repeated step is another, the reason; every lane is as it was."""
        self._fill(epoch)
        found: dict[Lane, CannotCapture] = {}
        for size in dict.fromkeys(self._sizes):
            number = self._sizes.index(size)
            begun, repeated, shown = self._repeated(size, number)
            for lane, track in self._tracks.items():
                try:
                    called, again = (self._called(track, number, shown, size) for _ in range(2))
                except CannotCapture as error:
                    found.setdefault(lane, error)
                    continue
                if why := difference(begun[lane], repeated[lane], called, again, lane.precision.name):
                    why = f"its step{lane.when()} is not what the graph repeats on {count(size, 'image')}: {why}"
                    found.setdefault(lane, CannotCapture(why))
                    continue
                if why := self._compiled_wrong(track, number, shown, size, called, begun[lane]):
                    lane.failure = why
                    found.setdefault(lane, CannotCapture(why))
        return found

    def _compiled_wrong(
        self, track: Track, number: int, shown: Shown, size: int, compiled: Moment, begun: Moment
    ) -> str:
        """Why a compiled step is not the step as it is written; "" where it is, or nothing is compiled."""
        lane = track.lane
        if lane.compiled is None:
            return ""
        kept, lane.compiled = lane.compiled, None
        try:
            plain, again = (self._called(track, number, shown, size) for _ in range(2))
        except CannotCapture as error:
            return f"its step{lane.when()} works compiled only: {error}; try --no-compile"
        finally:
            lane.compiled = kept
        why = difference(begun, compiled, plain, again, lane.precision.name, COMPILED)
        return why and f"its compiled step{lane.when()} is not the step as it is written: {why}; try --no-compile"

    def _repeated(self, size: int, number: int) -> tuple[dict[Lane, Moment], dict[Lane, Moment], Shown]:
        """All lanes before and after one repeat; and what the step shows, called. Every lane is as it was."""
        lanes = self.lanes
        for lane in lanes:
            lane.optimizer.zero_grad(set_to_none=True)
        begun = {lane: Moment.of(lane) for lane in lanes}
        self._machine.dice(lanes)
        self._begin()
        self._number.fill_(number)
        try:
            self._graphs[size][0]()
            self._machine.put_dice(lanes)
            repeated = {lane: Moment.of(lane, track.terms(size, number)) for lane, track in self._tracks.items()}
        finally:
            for lane in lanes:
                begun[lane].put_back(lane)
        self._number.fill_(number)
        with capturable("a batch with the teacher's outputs", self._device), self._machine.aside():
            return begun, repeated, self._data(size)

    def _called(self, track: Track, number: int, shown: Shown, size: int) -> Moment:
        """A lane after the step, called; it is as it was."""
        lane = track.lane
        if self._guard is not None:
            self._guard.note(shown)
        self._number.fill_(number)
        what = f"a step of {lane.key}"
        with capturable(what, self._device, self._guard), undone(lane), self._machine.aside():
            with lane.own_rng():
                self._train(track, shown, size)
            return Moment.of(lane, track.terms(size, number))


class Captures:
    """The captured steps of a group of lanes: made when lanes begin a stage, made anew when one leaves.

    Args:
        machine: what runs a step.
        note: told in a sentence what is not captured, and why.
        kept: what the teacher says in the main stage, where it is kept on the device.
        guard: that of the group; None: the methods are trusted.
        verify: whether the first epoch of the main stage is compared, of the first lane, with the same epoch, called.

    >>> import torch
    >>> from kdbench.data import Loader
    >>> from kdbench.engine.graph.backend import Eager
    >>> from kdbench.testing.examples import lanes, setting
    >>> images, labels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.arange(8) % 5
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> captures = Captures(Eager(), print)
    >>> [lane.key for lane in captures.of(loader, lanes("kd"), "train", setting().teacher).lanes]
    ['kd']
    """

    def __init__(
        self,
        machine: Machine,
        note: Callable[[str], None],
        kept: Resident | None = None,
        guard: Guard | None = None,
        verify: bool = False,
    ) -> None:
        self._machine, self._note, self._kept, self._guard = machine, note, kept, guard
        self._verify = verify and machine.captures
        self._key: tuple[object, ...] = ()
        self._now: Captured | None = None
        self._epochs = 0  # that were trained with it
        self._known: dict[Lane, tuple[object, Track | None]] = {}  # by lane: its optimizer; None: it runs beside
        self._switches = switches() if machine.captures else ()

    def of(
        self, loader: object, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
    ) -> Captured | None:
        """The captured step of these lanes, which stand at one epoch; None where there can be none."""
        key = (stage, *lanes, *(lane.optimizer for lane in lanes))
        graphs = self._machine.captures
        if graphs and self._now is not None and key == self._key and (lane := self._now.moved()):
            self._note(f"tensors of {lane.key} lie elsewhere than when its step was captured; it is captured anew")
            self._key = ()
        try:
            if key != self._key:
                self._key, self._now, self._epochs = key, None, 0  # the old graphs' memory first
                self._switches = switches() if graphs else ()
                self._now = self._made(loader, lanes, stage, show)
            if self._now is not None and graphs:
                if put_switches(self._switches):
                    self._note("torch's switches were others than when the step was captured; they are put back")
                if due(self._epochs):
                    self._now.prove(lanes[0].epoch, self._told(lanes))
                    self._now = self._now if self._now.lanes else None
                if self._now is not None and self._verify and stage == "train":
                    self._verify = False
                    self._now.canary = self._sing(self._now, loader, show)
        except CannotCapture as error:
            self._now = None
            self._note(f"this group runs without a CUDA graph: {error}")
        self._epochs += 1
        return self._now

    def _made(
        self, loader: object, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
    ) -> Captured | None:
        """Captured for the first time, or anew.

        Raises:
            CannotCapture: nothing can be.
        """
        if not isinstance(loader, Planned) or not getattr(loader, "on_device", True):
            raise CannotCapture("its batches come as a stream")
        if self._machine.over:
            raise CannotCapture(self._machine.over)
        known = {lane: self._known[lane][1] for lane in lanes if self._is_known(lane)}
        inside = [lane for lane in lanes if lane not in known or known[lane] is not None]
        if not inside:
            return None
        made = Captured(
            loader,
            inside,
            stage,
            show=show,
            machine=self._machine,
            note=self._note,
            kept=self._kept if stage == "train" else None,
            guard=self._guard,
            passed={lane: track for lane, track in known.items() if track is not None},
        )
        tracks = made.tracks()
        self._known = {lane: (lane.optimizer, tracks.get(lane)) for lane in lanes}
        return made if made.lanes else None

    def _sing(self, made: Captured, loader: Any, show: Callable[[Tensor], Outputs] | None) -> Callable[[], None]:
        """Train the first lane for an epoch, called, and take it back; what is asked after the graph's epoch."""
        lane = made.lanes[0]

        def seen() -> Iterator[Shown]:
            for image, label, idx, *_ in loader.epoch(lane.epoch, stage="train"):
                yield Shown(image, label, idx, None if show is None else show(image))

        canary = Canary(lane, seen(), len(loader), self._guard)

        def judge() -> None:
            if said := canary.judge(partial(self._leave, lane)):
                self._note(said)

        return judge

    def _leave(self, lane: Lane, why: str) -> None:
        """From the next epoch on a lane runs beside the graph, which is captured anew."""
        self._note(f"{lane.key} runs beside the graph, step by step: {why}")
        self._known[lane], self._key = (lane.optimizer, None), ()

    def _is_known(self, lane: Lane) -> bool:
        return lane in self._known and self._known[lane][0] is lane.optimizer

    def _told(self, lanes: Sequence[Lane]) -> Callable[[str], None]:
        """``note``; of lanes that leave is remembered that they did."""

        def note(sentence: str) -> None:
            self._note(sentence)
            assert self._now is not None
            left = [lane for lane in lanes if lane not in self._now.lanes]
            self._known |= {lane: (lane.optimizer, None) for lane in left}

        return note
