"""The whole lock-step training step as one repeatable piece, so that CUDA can hold it in a graph.

The host does one launch per step. Everything of an epoch that is drawn or known ahead (order,
crops, flips, progress, learning rate) is written into tensors with fixed places before its first
step; a step counter on the device picks the batch; data, teacher, every lane's forward and
backward pass and optimizer follow; each term is written down at the counter's place and read once
per epoch. An epoch's shorter last batch is a second graph. Gradients are freed and made anew
inside the graph, in its own memory: that is the eager order, so a parameter that a batch does not
reach is not decayed, and no kernel is spent on filling with zeros or on adding.

The step is a plain function of those tensors. On the CPU it is simply called, and must give the
bits of the eager loop; on CUDA it is captured (``backend.Graphs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kdbench.distiller import Batch, Outputs
from kdbench.engine.graph.backend import Machine, host_draws
from kdbench.engine.graph.cached_teacher import Resident
from kdbench.engine.graph.capturable import REHEARSALS, CannotCapture, capturable
from kdbench.engine.graph.proof import named
from kdbench.engine.graph.rollback import undone
from kdbench.engine.guard import Guard, sentence
from kdbench.engine.lane import Lane
from kdbench.engine.rng import offset
from kdbench.engine.shared import Passing, Shown
from kdbench.engine.stepping import by_host
from kdbench.utils.plan import BatchPlan
from kdbench.utils.wording import count


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


@dataclass
class Track:
    """A lane's own tensors at fixed places."""

    lane: Lane
    progress: Tensor  # (steps,) float32
    names: dict[int, list[str]] = field(default_factory=dict)  # of the terms, by batch size
    values: dict[int, Tensor] = field(default_factory=dict)  # (terms and the rate, steps) float32, by batch size
    draws: dict[int, int] = field(default_factory=dict)  # how far a step moves the device's random numbers, by size
    passed: bool = False  # the rehearsal; a later capture with the same optimizer needs none

    def terms(self, size: int, step: int) -> dict[str, Tensor]:
        """Copies of what was written down at a step."""
        return {name: self.values[size][row, step].clone() for row, name in enumerate(self.names[size])}


class Steps:
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
        passed: lanes with this optimizer that need no rehearsal, since an earlier capture held them.

    Raises:
        CannotCapture: the batches themselves need the host.

    >>> from kdbench.data import Loader
    >>> from kdbench.engine.graph.backend import Eager
    >>> from kdbench.testing.examples import lanes, setting
    >>> images, labels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.arange(8) % 5
    >>> loader = Loader(images, labels, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> step = Steps(loader, lanes("kd"), "train", show=setting().teacher, machine=Eager(), note=print)
    >>> len(list(step.epoch(0)))
    2
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
        passed: Mapping[Lane, Track] | None = None,
    ) -> None:
        self.loader, self.stage, self._show, self._machine, self._guard = loader, stage, show, machine, guard
        self._kept = None if show is None else kept
        self._device = device = loader.labels.device
        images, b = len(loader.labels), loader.batch_size
        self._sizes = [min(b, images - first) for first in range(0, len(loader) * b, b)]  # by step
        self._plan = loader.plan(0, stage).each(torch.empty_like)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._seen = torch.zeros(1, dtype=torch.int64, device=device)  # the sum of the images' numbers in this epoch
        self._places = torch.arange(b, device=device)
        known = passed or {}
        self._tracks = {
            lane: known.get(lane) or Track(lane, torch.zeros(len(self._sizes), device=device)) for lane in lanes
        }
        self._graphs: dict[int, tuple[Callable[[], object], Shown]] = {}  # by batch size
        self._filled = -1
        self._addresses: dict[Lane, tuple[int, ...]] = {}
        self._fill(lanes[0].epoch)
        seen = self._look_ahead()
        for lane in lanes:
            if self._tracks[lane].passed:
                continue
            try:
                self._rehearse(self._tracks[lane], seen)
            except CannotCapture as error:
                self._leave_out(lane, error, note)
                if guard is not None and guard.spoilt:
                    seen = self._look_ahead()
        del seen
        if machine.captures and self._tracks:
            self._record_all(note)

    def tracks(self) -> dict[Lane, Track]:
        """What is known of each lane that the captured step trains."""
        return dict(self._tracks)

    @property
    def lanes(self) -> list[Lane]:
        """Lanes that the captured step trains; the caller steps the others."""
        return list(self._tracks)

    def epoch(self, epoch: int) -> Iterator[Shown]:
        """Train the lanes for an epoch; yields after each step what others need of it.

        Afterwards each lane has its terms and its random numbers.
        """
        self._fill(epoch)
        self._begin()
        self._machine.dice(self.lanes)
        begun = {lane: lane.rng for lane in self.lanes}
        for size in self._sizes:
            self._size = size
            if self._machine.captures:
                replay, shown = self._graphs[size]
                replay()
                yield shown
            else:
                yield self._step(size)
        self._machine.put_dice(self.lanes)
        wrong = self._wrong_batches()
        for lane, track in self._tracks.items():
            if not lane.failure:
                self._hand_over(track, wrong or self._wrong_draws(track, begun[lane]))
        self._filled = -1  # lanes may ask for the same epoch of another stage

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
        self._seen += shown[0].idx.sum()
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

    def _train(self, track: Track, shown: Shown, size: int) -> None:
        progress = track.progress.index_select(0, self._number)[0]
        lent = shown.lent()
        terms = track.lane.update(lent.teacher, Batch(lent.image, lent.label, lent.idx, progress))
        # Beside the terms the rate, where the device reads it: it must be that of the day.
        rows = [*terms.values(), *(rate.float() for rate in _rates(track.lane))]
        if size not in track.values:  # the first rehearsal
            track.names[size] = list(terms)
            track.values[size] = torch.zeros(len(rows), len(self._sizes), device=self._number.device)
        track.values[size].index_copy_(1, self._number, torch.stack(rows)[:, None])

    def _begin(self) -> None:
        self._number.zero_()
        self._seen.zero_()
        for track in self._tracks.values():
            for values in track.values.values():
                values.fill_(torch.nan)  # what a step does not write down is no value of a step before

    def _fill(self, epoch: int) -> None:
        """Everything of an epoch that is known before its first step."""
        if self._filled == epoch:
            return
        self._filled = epoch
        plan = self.loader.plan(epoch, self.stage)
        for place, drawn in zip(self._plan, plan, strict=True):
            place.copy_(drawn)
        self._drawn = plan.part(0, sum(self._sizes)).order.sum()  # a single image that is left over is not shown
        steps = len(self._sizes)
        if self._kept is not None:
            asked = sum(size for size in self._sizes if self._kept.covers(size))  # a shorter batch is the last
            self._kept.ready(self._plan.part(0, asked))
        for track in self._tracks.values():
            # In a pre-training stage lanes may differ in length, so each has its own clock.
            ahead = [(epoch + number / steps) / track.lane.total for number in range(steps)]
            track.progress.copy_(torch.tensor(ahead))

    def _wrong_batches(self) -> str:
        """Whether the steps of the epoch were those that were planned; a sentence where not. Waits for the device."""
        steps, seen, drawn = int(self._number), int(self._seen), int(self._drawn)
        if (steps, seen) == (len(self._sizes), drawn):
            return ""
        return f"{steps} of {len(self._sizes)} steps were counted, on images of other numbers than were drawn"

    def _wrong_draws(self, track: Track, begun: Mapping[str, Tensor]) -> str:
        """As ``_wrong_batches``, of a lane's random numbers on the device. Only the host is asked."""
        first, last = (offset(state["cuda"]) if "cuda" in state else None for state in (begun, track.lane.rng))
        if first is None or last is None or not track.draws:
            return ""
        wanted = sum(track.draws[size] for size in self._sizes)
        return "" if last - first == wanted else f"random numbers went on by {last - first}, not by {wanted}"

    def _hand_over(self, track: Track, wrong: str) -> None:
        """Terms of the epoch to the lane, in the order of the steps: one copy from the device per kind of batch."""
        lane = track.lane
        for size in sorted(track.values, reverse=True):  # the shorter batch is the last
            found, names = track.values[size].cpu(), track.names[size]
            steps = [number for number, its in enumerate(self._sizes) if its == size]
            rows = found[:, steps[0] : steps[-1] + 1]
            lane.saw(steps[0], size, dict(zip(names, rows, strict=False)))
            for rates in rows[len(names) :]:
                if not wrong and (rates != torch.tensor(lane.rate, dtype=torch.float32)).any():
                    wrong = f"steps were made at rates from {rates.min():g} to {rates.max():g}, not at {lane.rate:g}"
        if wrong:
            lane.failure = f"the repeated step went wrong{lane.when()}: {wrong}; try --graphs off, and tell us"

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
                    self._seen += found[size][1].idx.sum()
                    self._number += 1  # no kernel of a capture is launched for the first time in it
        return found

    def _rehearse(self, track: Track, seen: dict[int, tuple[int, Shown]]) -> None:
        """Run a lane on a batch of each size, find the names of its terms, and undo everything.

        Raises:
            CannotCapture: the lane does what a repeated step must not.
        """
        lane, machine, rng = track.lane, self._machine, track.lane.rng
        if why := by_host(lane.plan):
            raise CannotCapture(why)
        if self._guard is not None:
            self._guard.note(*(shown for _, shown in seen.values()), thorough=True)
        what = f"a step of {lane.key}"
        with capturable(what, self._device, self._guard), undone(lane) as replaced, machine.aside():
            for size, (number, shown) in seen.items():
                self._number.fill_(number)
                for attempt in range(REHEARSALS):
                    last = attempt == REHEARSALS - 1
                    begun = lane.rng
                    with lane.own_rng(), machine.strict() if last else nullcontext():
                        self._train(track, shown, size)
                    if "cuda" in begun and (ahead := offset(lane.rng["cuda"])) is not None:
                        track.draws[size] = ahead - (offset(begun["cuda"]) or 0)
            drew = host_draws(rng, lane.rng)
        if replaced:
            raise CannotCapture(f"every step puts something new into {replaced[0]}, where a graph has the old")
        if drew:
            raise CannotCapture("the method draws random numbers on the CPU")
        track.passed = True

    def _leave_out(self, lane: Lane, why: CannotCapture, note: Callable[[str], None]) -> None:
        del self._tracks[lane]
        note(f"{lane.key} runs beside the graph, step by step: {why}")

    def _record_all(self, note: Callable[[str], None]) -> None:
        """Capture the step of every batch size; lanes that break it are found one by one and left out."""
        try:
            self._record(self.lanes)
            return
        except CannotCapture:
            if self._machine.over:
                raise
        for lane in self.lanes:
            try:
                self._record([lane])
            except CannotCapture as error:
                if self._machine.over:
                    raise
                self._leave_out(lane, error, note)
        if self._tracks:
            self._record(self.lanes)

    def _record(self, lanes: Sequence[Lane]) -> None:
        everyone, self._graphs = self._tracks, {}
        self._tracks = {lane: everyone[lane] for lane in lanes}
        try:
            if self._guard is not None:
                self._guard.note()
            with capturable(f"the graph of {count(len(lanes), 'lane')}", self._device, self._guard):
                self._machine.dice(lanes)
                self._machine.drawing([lane for lane in lanes if any(self._tracks[lane].draws.values())])
                with self._machine.together():
                    for size in dict.fromkeys(self._sizes):
                        self._graphs[size] = self._machine.record(partial(self._step, size))
        except CannotCapture as error:
            raise CannotCapture(self._machine.over or str(error)) from None
        finally:
            self._tracks = everyone
            for lane in lanes:
                lane.optimizer.zero_grad(set_to_none=True)  # those of the capture are the graph's
        self._addresses = {lane: _addresses(lane) for lane in lanes}

    def moved(self) -> Lane | None:
        """A lane whose tensors lie elsewhere than when its step was captured. Only the host is asked."""
        return next((lane for lane, before in self._addresses.items() if _addresses(lane) != before), None)


def _rates(lane: Lane) -> list[Tensor]:
    """The learning rate, where the device reads it; else nothing."""
    rate = lane.optimizer.param_groups[0]["lr"]
    return [rate] if isinstance(rate, Tensor) else []


def _addresses(lane: Lane) -> tuple[int, ...]:
    """Where everything lies that a captured step of a lane writes or reads from step to step."""
    tensors = chain((tensor for _, tensor in named(lane)), _rates(lane), lane.scaler.tensors())
    return tuple(tensor.data_ptr() for tensor in tensors)
