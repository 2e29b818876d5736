"""The whole lock-step training step as one repeatable piece, so that CUDA can hold it in a graph.

The host does one launch per step. Everything of an epoch that is drawn or known ahead (order,
crops, flips, progress, learning rate) is written into tensors with fixed places before its first
step; a step counter on the device picks the batch; data, teacher, every lane's forward and
backward pass and optimizer follow; each term is written down at the counter's place and read once
per epoch. An epoch's shorter last batch is a second graph. Gradients are freed and made anew
inside the graph, in its own memory: that is the eager order, so a parameter that a batch does not
reach is not decayed, and no kernel is spent on filling with zeros or on adding.

The step is a plain function of those tensors. On the CPU it is simply called, and must give the
bits of the eager loop; on CUDA it is captured (``machine.Graphs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kdbench.distiller import Batch, Outputs
from kdbench.engine.errors import OutOfMemory, first_cause, holds
from kdbench.engine.graph.backend import Machine, host_draws
from kdbench.engine.graph.cached_teacher import Resident
from kdbench.engine.graph.rollback import undone
from kdbench.engine.guard import Guard, sentence
from kdbench.engine.lane import Lane
from kdbench.engine.shared import Passing, Shown
from kdbench.utils.plan import BatchPlan
from kdbench.utils.wording import count

#: Steps before a capture, as torch asks for: libraries start, kernels are chosen.
REHEARSALS = 3


@runtime_checkable
class Planned(Protocol):
    """A loader whose batches can be made on the device from draws made ahead."""

    batch_size: int
    labels: Tensor

    def __len__(self) -> int: ...

    def plan(self, epoch: int, stage: str = "train") -> BatchPlan:
        """All draws of an epoch."""
        ...

    def gather(self, plan: BatchPlan) -> Tensor:
        """A batch of images from part of a plan."""
        ...


class CannotCapture(Exception):
    """Why a lane's step cannot be repeated without the host."""


@contextmanager
def capturable(what: str, device: torch.device, guard: Guard | None = None) -> Iterator[None]:
    """What goes wrong inside is either that ``what`` does not fit into the memory, or says why there is no capture.

    With a ``guard``, whose note is of now, changing what is not one's own is such a reason, too.

    Raises:
        OutOfMemory: the one.
        CannotCapture: the other.
    """
    changed: list[str] = []
    try:
        try:
            with holds(what, device):
                yield
        finally:
            changed = [] if guard is None else guard.put_back()
    except (OutOfMemory, CannotCapture):
        raise
    except BaseException as error:  # a stranger's method may raise anything
        if guard.meant(error) if guard is not None else not isinstance(error, Exception):
            raise
        raise CannotCapture(first_cause(error)) from error
    if guard is not None:
        guard.raise_swallowed()
    if changed:
        raise CannotCapture(sentence(changed, ""))


@dataclass
class _Track:
    """A lane's own tensors at fixed places."""

    lane: Lane
    progress: Tensor  # (steps,) float32
    names: dict[int, list[str]] = field(default_factory=dict)  # of the terms, by batch size
    values: dict[int, Tensor] = field(default_factory=dict)  # (terms, steps) float32, by batch size


class Captured:
    """The steps of some lanes in one stage.

    Args:
        loader: of the training data.
        lanes: those of one stage that stand at the same epoch.
        stage: "pretrain" or "train".
        show: the teacher's outputs on a batch of images; None when no lane needs them.
        machine: what runs a step.
        note: told in a sentence which lane stays outside, and why.
        kept: has the teacher's outputs already; ``show`` is asked about what it does not cover.
        guard: that of the group; None: the methods are trusted.

    Raises:
        CannotCapture: the batches themselves need the host.
    """

    def __init__(
        self,
        loader: Planned,
        lanes: Sequence[Lane],
        stage: str,
        *,
        show: Callable[[Tensor], Outputs] | None,
        machine: Machine,
        note: Callable[[str], None],
        kept: Resident | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.loader, self.stage, self._show, self._machine, self._guard = loader, stage, show, machine, guard
        self._kept = None if show is None else kept
        self._device = device = loader.labels.device
        images, b = len(loader.labels), loader.batch_size
        self._sizes = [min(b, images - first) for first in range(0, len(loader) * b, b)]  # by step
        self._plan = loader.plan(0, stage).each(torch.empty_like)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(b, device=device)
        self._tracks = {lane: _Track(lane, torch.zeros(len(self._sizes), device=device)) for lane in lanes}
        self._graphs: dict[int, tuple[Callable[[], object], Shown]] = {}  # by batch size
        self._fill(lanes[0].epoch)
        seen = self._look_ahead()
        for lane in lanes:
            try:
                self._rehearse(self._tracks[lane], seen)
            except CannotCapture as error:
                self._leave_out(lane, error, note)
                if guard is not None and guard.spoilt:
                    seen = self._look_ahead()
        del seen
        if machine.captures and self._tracks:
            self._record_all(note)

    @property
    def lanes(self) -> list[Lane]:
        """Lanes that the captured step trains; the caller steps the others."""
        return list(self._tracks)

    def epoch(self, epoch: int) -> Iterator[Shown]:
        """Train the lanes for an epoch; yields after each step what others need of it.

        Afterwards each lane has its terms and its random numbers.
        """
        self._fill(epoch)
        self._machine.dice(self.lanes)
        for size in self._sizes:
            self._size = size
            if self._machine.captures:
                replay, shown = self._graphs[size]
                replay()
                yield shown
            else:
                yield self._step(size)
        self._machine.put_dice(self.lanes)
        for track in self._tracks.values():
            if not track.lane.failure:
                self._hand_over(track)

    def again(self) -> Shown:
        """What the last step showed, made anew: a lane outside has changed it."""
        self._number -= 1
        shown = self._data(self._size)
        self._number += 1
        return shown

    # -- the step -------------------------------------------------------------------------

    def _step(self, size: int) -> Shown:
        """One step on the batch that the counter points to. Nothing in here asks the device anything."""
        shown = [self._data(size)]
        if self._guard is None or self._machine.captures:
            passing = Passing(shown[0])
            self._machine.branches(self.lanes, lambda lane: self._train(self._tracks[lane], shown[0], size))
            if self._guard is not None and (changed := passing.changed()):
                raise CannotCapture(sentence(changed, ""))
        else:
            self._guard.note(shown[0])
            self._machine.branches(self.lanes, partial(self._train_guarded, shown, size))
        self._number += 1
        return shown[-1]  # alive until all branches are joined: their memory is the trunk's

    def _train_guarded(self, shown: list[Shown], size: int, lane: Lane) -> None:
        """``_train`` where the step is called, not recorded: a lane may fail in any of them."""
        assert self._guard is not None
        if lane.failure:
            return
        work = partial(self._train, self._tracks[lane], shown[-1], size)
        self._guard.run(lane, lane.when(), work, what=f"a step of {count(len(self.lanes), 'lane')}")
        if self._guard.spoilt:
            shown.append(self._data(size))
            self._guard.note(shown[-1])

    def _data(self, size: int) -> Shown:
        at = self._number * self.loader.batch_size + self._places[:size]
        plan = self._plan.each(lambda part: part.index_select(0, at))
        image, label = self.loader.gather(plan), self.loader.labels.index_select(0, plan.order)
        if self._kept is not None and self._kept.covers(size):
            return Shown(image, label, plan.order, self._kept.outputs(plan))
        return Shown(image, label, plan.order, None if self._show is None else self._show(image))

    def _train(self, track: _Track, shown: Shown, size: int) -> None:
        progress = track.progress.index_select(0, self._number)[0]
        lent = shown.lent()
        terms = track.lane.update(lent.teacher, Batch(lent.image, lent.label, lent.idx, progress))
        if size not in track.values:  # the first rehearsal
            track.names[size] = list(terms)
            track.values[size] = torch.zeros(len(terms), len(self._sizes), device=self._number.device)
        track.values[size].index_copy_(1, self._number, torch.stack(list(terms.values()))[:, None])

    def _fill(self, epoch: int) -> None:
        """Everything of an epoch that is known before its first step."""
        for place, drawn in zip(self._plan, self.loader.plan(epoch, self.stage), strict=True):
            place.copy_(drawn)
        self._number.zero_()
        steps = len(self._sizes)
        if self._kept is not None:
            asked = sum(size for size in self._sizes if self._kept.covers(size))  # a shorter batch is the last
            self._kept.ready(self._plan.part(0, asked))
        for track in self._tracks.values():
            # In a pre-training stage lanes may differ in length, so each has its own clock.
            ahead = [(epoch + number / steps) / track.lane.total for number in range(steps)]
            track.progress.copy_(torch.tensor(ahead))

    def _hand_over(self, track: _Track) -> None:
        """Terms of the epoch to the lane, in the order of the steps: one copy from the device per kind of batch."""
        for size in sorted(track.values, reverse=True):  # the shorter batch is the last
            found = track.values[size].cpu()
            steps = [number for number, its in enumerate(self._sizes) if its == size]
            rows = found[:, steps[0] : steps[-1] + 1]
            track.lane.saw(steps[0], size, dict(zip(track.names[size], rows, strict=True)))

    # -- before the first step --------------------------------------------------------------

    def _look_ahead(self) -> dict[int, tuple[int, Shown]]:
        """By batch size, the first step of that size and its batch.

        Raises:
            CannotCapture: making a batch needs the host.
        """
        found = {}
        with capturable("a batch with the teacher's outputs", self._device), self._machine.aside():
            for size in dict.fromkeys(self._sizes):
                number = self._sizes.index(size)
                self._number.fill_(number)
                self._data(size)  # the first use may start libraries
                with self._machine.strict():
                    found[size] = number, self._data(size)
        return found

    def _rehearse(self, track: _Track, seen: dict[int, tuple[int, Shown]]) -> None:
        """Run a lane on a batch of each size, find the names of its terms, and undo everything.

        Raises:
            CannotCapture: the lane does what a repeated step must not.
        """
        lane, machine, rng = track.lane, self._machine, track.lane.rng
        if lane.by_host:
            raise CannotCapture(lane.by_host)
        if self._guard is not None:
            self._guard.note(*(shown for _, shown in seen.values()), thorough=True)
        what = f"a step of {lane.key}"
        with capturable(what, self._device, self._guard), undone(lane) as replaced, machine.aside():
            for size, (number, shown) in seen.items():
                self._number.fill_(number)
                for attempt in range(REHEARSALS):
                    last = attempt == REHEARSALS - 1
                    with lane.own_rng(), machine.strict() if last else nullcontext():
                        self._train(track, shown, size)
            drew = host_draws(rng, lane.rng)
        if replaced:
            raise CannotCapture(f"every step puts something new into {replaced[0]}, where a graph has the old")
        if drew:
            raise CannotCapture("the method draws random numbers on the CPU")

    def _leave_out(self, lane: Lane, why: CannotCapture, note: Callable[[str], None]) -> None:
        del self._tracks[lane]
        note(f"{lane.key} runs beside the graph, step by step: {why}")

    def _record_all(self, note: Callable[[str], None]) -> None:
        """Capture the step of every batch size; lanes that break it are found one by one and left out."""
        try:
            self._record(self.lanes)
            return
        except CannotCapture:
            pass
        for lane in self.lanes:
            try:
                self._record([lane])
            except CannotCapture as error:
                self._leave_out(lane, error, note)
        self._record(self.lanes)

    def _record(self, lanes: Sequence[Lane]) -> None:
        everyone, self._graphs = self._tracks, {}
        self._tracks = {lane: everyone[lane] for lane in lanes}
        try:
            if self._guard is not None:
                self._guard.note()
            with capturable(f"the graph of {count(len(lanes), 'lane')}", self._device, self._guard):
                self._machine.dice(lanes)
                for size in dict.fromkeys(self._sizes):
                    self._graphs[size] = self._machine.record(partial(self._step, size))
        finally:
            self._tracks = everyone
            for lane in lanes:
                lane.optimizer.zero_grad(set_to_none=True)  # those of the capture are the graph's


class Captures:
    """The captured steps of a group of lanes: made when lanes begin a stage, made anew when one leaves.

    Args:
        machine: what runs a step.
        note: told in a sentence what is not captured, and why.
        kept: what the teacher says in the main stage, where it is kept on the device.
        guard: that of the group; None: the methods are trusted.
    """

    def __init__(
        self,
        machine: Machine,
        note: Callable[[str], None],
        kept: Resident | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._machine, self._note, self._kept, self._guard = machine, note, kept, guard
        self._key: tuple[object, ...] = ()
        self._now: Captured | None = None

    def of(
        self, loader: object, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
    ) -> Captured | None:
        """The captured step of these lanes; None where there can be none."""
        key = (stage, *lanes, *(lane.optimizer for lane in lanes))
        if key != self._key:
            self._key, self._now = key, None  # the old graphs' memory first
            try:
                if not isinstance(loader, Planned) or not getattr(loader, "on_device", True):
                    raise CannotCapture("its batches come as a stream")
                kept = self._kept if stage == "train" else None
                made = Captured(
                    loader,
                    lanes,
                    stage,
                    show=show,
                    machine=self._machine,
                    note=self._note,
                    kept=kept,
                    guard=self._guard,
                )
                self._now = made if made.lanes else None
            except CannotCapture as error:
                self._note(f"this group runs without a CUDA graph: {error}")
        return self._now
