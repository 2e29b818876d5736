"""The training loop: one teacher pass per batch serves every lane. The one visible loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from kdbench.distiller import Batch, Outputs
from kdbench.engine import memory
from kdbench.engine.errors import holds
from kdbench.engine.evaluate import Fold, evaluate, predictions
from kdbench.engine.feed import Feed, Loader, labels_of
from kdbench.engine.graph.backend import Machine
from kdbench.engine.graph.cached_teacher import Resident
from kdbench.engine.graph.eval_step import Exams
from kdbench.engine.graph.train_step import Captured, Captures
from kdbench.engine.guard import Guard
from kdbench.engine.lane import STAGES, Lane
from kdbench.engine.precision import Precision
from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.engine.saving import EVERY, EVERY_ON_CPU, Saver
from kdbench.engine.shared import Lasting, Shown, tensors_of
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.reader import Lesson, widest
from kdbench.utils.wording import count


class Watcher(Protocol):
    """Told how far a group of lanes is; never asked anything.

    >>> from kdbench.testing.examples import lanes, setting
    >>> class Loud(Watcher):
    ...     def epoch(self, stage, lanes):
    ...         print(stage, [lane.key for lane in lanes])
    >>> fit(setting(), lanes("kd", "fitnet"), Loud(), finish=lambda lane: None)
    train ['kd', 'fitnet']
    """

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        """An epoch of these lanes is finished, evaluated and saved."""


@dataclass(frozen=True)
class Setting:
    """What all lanes of a group share.

    >>> from kdbench.testing.toys import TWIN, Problem
    >>> from kdbench.testing.examples import Images
    >>> problem = Problem(TWIN)
    >>> test = [(problem.image, problem.label)]
    >>> shared = Setting(problem.teacher, Images(problem), lambda: test, torch.device("cpu"), Precision())
    >>> shared.machine is None  # the plain loop
    True
    """

    teacher: nn.Module | None  # who teaches: eval mode, frozen; None when a teacher itself is trained
    train: Loader
    test: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    device: torch.device
    precision: Precision
    judge: nn.Module | None = None  # whose predictions agreement is measured with; None: the teacher's
    machine: Machine | None = None  # runs whole steps at once, see engine.capture; None: the loop below
    note: Callable[[str], None] = lambda sentence: None
    table: TeacherTable | None = None  # the teacher's kept outputs, for the loop
    resident: Resident | None = None  # the same on the device, for ``machine``
    #: Images that no lane is trained on, as ``test``: what may choose where test images must not; None: there are none.
    validation: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None
    fold: Fold | None = None  # makes the copy of a student that is evaluated; None: the student itself
    every: float | None = None  # seconds between two checkpoints, 0: one after every epoch; None: as usual
    lasting: Lasting | None = None  # what else methods can reach, such as the training labels
    verify: bool = False  # ``machine``'s first epoch is compared with the same epoch, called, for one lane

    def guard(self) -> Guard:
        """A guard around the methods of lanes in this setting."""
        teacher = {} if self.teacher is None else {"the teacher's weights": tensors_of(self.teacher)}
        own = Lasting(teacher | {"the training labels": labels_of(self.train)})
        return Guard([own] if self.lasting is None else [own, self.lasting])


def fit(setting: Setting, lanes: Sequence[Lane], watch: Watcher, finish: Callable[[Lane], None]) -> None:
    """Train lanes in lock-step to their end; call ``finish`` for each that is done or has failed.

    Lanes may stand at different epochs (some resumed): each joins when its own epoch comes.

    Raises:
        OutOfMemory: what did not fit; fewer lanes at once may.

    >>> from kdbench.testing.examples import lanes, setting
    >>> class Quiet(Watcher):
    ...     "Hears everything and says nothing."
    >>> fit(setting(), lanes("kd", "fitnet"), Quiet(), finish=lambda lane: print(lane.key, lane.epoch, lane.failure))
    kd 1 None
    fitnet 1 None
    """
    rng = rng_state(setting.device)
    try:
        usual = EVERY if setting.device.type == "cuda" else EVERY_ON_CPU
        saver = Saver(usual if setting.every is None else setting.every, note=setting.note)
        training = holds(f"the training of {count(len(lanes), 'lane')}", setting.device)
        with memory.kept(setting.device), training, saver, setting.guard() as guard:
            _fit(setting, lanes, watch, finish, guard, saver)
    finally:
        set_rng_state(rng, setting.device)


def _fit(
    setting: Setting,
    lanes: Sequence[Lane],
    watch: Watcher,
    finish: Callable[[Lane], None],
    guard: Guard,
    saver: Saver,
) -> None:
    teacher_says = None
    judge = setting.teacher if setting.judge is None else setting.judge
    if judge is not None:
        with holds("the teacher's evaluation", setting.device):
            teacher_says = predictions(judge, setting.test(), setting.precision)[0].argmax(dim=1)
    machine = setting.machine
    captures = None if machine is None else Captures(machine, setting.note, setting.resident, guard, setting.verify)
    exams, mocks = (None if machine is None else Exams(machine, setting.note, setting.fold, guard) for _ in range(2))
    for stage in STAGES:
        for epoch in range(max(lane.pretrain_total if stage == "pretrain" else lane.plan.epochs for lane in lanes)):
            active = [lane for lane in lanes if not lane.failure and (lane.stage, lane.epoch) == (stage, epoch)]
            if not active:
                continue
            train_epoch(setting, active, stage, epoch, watch, captures, guard, saver)
            due = [lane for lane in active if not lane.failure and stage == "train" and lane.plan.evaluates(epoch)]
            if due:
                _evaluate(setting, due, teacher_says, exams, guard)
                _validate(setting, [lane for lane in due if not lane.failure], mocks, guard)
                _average(setting, [lane for lane in due if not lane.failure and lane.average], guard)
            for lane in [lane for lane in due if not lane.failure]:
                lane.curve[-1]["top1"] = lane.report["top1"]
                if not math.isfinite(lane.report["nll"]):
                    lane.failure = f"the logits were not finite after epoch {epoch + 1}; try {lane.remedy()}"
            watch.epoch(stage, active)
            saved = saver.due(active)
            for lane in active:
                _keep(setting, lane, finish, guard, saver, due=lane in saved)


def keep(setting: Setting, lane: Lane, finish: Callable[[Lane], None]) -> None:
    """Finish a lane that was done when it was resumed.

    >>> from kdbench.testing.examples import lanes, setting
    >>> class Quiet(Watcher):
    ...     "Hears everything and says nothing."
    >>> ready = lanes("kd")
    >>> fit(setting(), ready, Quiet(), finish=lambda lane: None)
    >>> keep(setting(), ready[0], finish=lambda lane: print(lane.key, lane.done))
    kd True
    """
    with setting.guard() as guard:
        _keep(setting, lane, finish, guard, Saver(0.0))


def _keep(
    setting: Setting, lane: Lane, finish: Callable[[Lane], None], guard: Guard, saver: Saver, *, due: bool = True
) -> None:
    """Save a lane that has more before it, at once where it is ``due``; finish one that is done or has failed."""

    def example() -> Tensor:
        return next(iter(setting.test()))[0][:2]

    guard.note(thorough=True)
    if not lane.failure and not lane.done:
        _save(lane, guard, saver, due=due)
    elif not lane.failure:
        guard.run(lane, " when it was finished", partial(lane.close, example), what=f"what is kept of {lane.key}")
    if lane.failure or lane.done:
        saver.settle(lane)
        with holds(f"what is kept of {lane.key}", lane.device):
            finish(lane)
        lane.forget()


def _save(lane: Lane, guard: Guard, saver: Saver, *, due: bool = True) -> None:
    what, save = f"the checkpoint of {lane.key}", partial(saver.save, lane, due=due)
    guard.run(lane, " when its checkpoint was written", save, what=what, passing=(OSError,))


def split(setting: Setting, lanes: Sequence[Lane], free: int | None, plan: memory.Say = None) -> list[list[Lane]]:
    """Lanes in groups that the memory holds, in their order.

    Args:
        setting: theirs.
        lanes: of one group of cells.
        free: bytes of main memory that lanes on the CPU can have; None: not known. ``plan`` hears what they will.

    Raises:
        OutOfMemory: not even one step of one of them fits.

    >>> from kdbench.testing.examples import lanes, setting
    >>> [len(part) for part in split(setting(), lanes("kd", "at"), free=10**9)]
    [2]
    """
    on_cuda = setting.device.type == "cuda"
    if len(lanes) < 2 or (free is None and not on_cuda):
        return [list(lanes)]
    with holds("one lane", setting.device), setting.guard() as guard:
        image, label, idx, *more = next(iter(setting.train.epoch(0)))
        says = None if setting.teacher is None else look(setting, more[1] if more[1:] else image)
        shown = Shown(image, label, idx, says, *more[:1])
        if on_cuda:
            needs = [memory.peak(lane, shown, guard) for lane in lanes]
            once = 0
            if setting.machine is not None:
                needs = [need + memory.compared(lane) for need, lane in zip(needs, lanes, strict=True)]
                test, half = next(iter(setting.test()))[0], setting.precision.dtype(setting.device) is not None
                once = memory.once(max(memory.evaluated(lane, test, guard) for lane in lanes), half=half)
            sizes = memory.pack(needs, memory.free(setting.device), memory.SHARE, once)
        else:
            assert free is not None
            sizes = memory.together(lanes, shown, guard, free, plan)
    ends = list(accumulate(sizes))
    return [list(lanes[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def train_epoch(
    setting: Setting,
    lanes: Sequence[Lane],
    stage: str,
    epoch: int,
    watch: Watcher,
    captures: Captures | None = None,
    guard: Guard | None = None,
    saver: Saver | None = None,
) -> None:
    """One epoch of lock-step training of lanes that stand at it.

    Nothing in here waits for the device, but for the look at what the first step shows.

    ``captures``, ``guard`` and ``saver`` belong to this group of lanes over all its epochs; without them, the plain
    loop, a guard for this epoch, and no checkpoint in the middle of it. A lane that was resumed in mid-epoch joins
    where it stands.

    Raises:
        OutOfMemory: with the number of lanes that did not fit.

    >>> from kdbench.testing.examples import lanes, setting
    >>> class Loud(Watcher):
    ...     def step(self, lanes):
    ...         print(f"{lanes} lanes")
    >>> train_epoch(setting(), lanes("kd", "fitnet"), "train", 0, Loud())
    2 lanes
    2 lanes
    2 lanes
    2 lanes
    """
    if guard is None:
        with setting.guard() as own:
            train_epoch(setting, lanes, stage, epoch, watch, captures, own, saver)
        return
    started = time.perf_counter()
    guard.note(thorough=True)
    for lane in lanes:
        guard.run(lane, lane.when(), lane.ask)
    lanes = [lane for lane in lanes if not lane.failure]
    if not lanes:
        return
    for lane in lanes:
        lane.start_epoch()
    before = sum(lane.seconds for lane in lanes)
    show = partial(look, setting) if any(lane.needs_teacher for lane in lanes) else None
    first = min(lane.begun for lane in lanes)
    whole = captures is not None and not any(lane.begun for lane in lanes)
    captured = _captured(captures, setting, lanes, stage, show) if captures is not None and whole else None
    kept = setting.table if show is not None and stage == "train" and captured is None else None
    lesson = None if kept is None else Lesson(kept, epoch, widest(lanes))
    batches = Feed(setting.train, setting.device, captured, stage, epoch, show, lesson, first)
    alone = [lane for lane in lanes if captured is None or lane not in captured.lanes]
    steps, what = len(setting.train), f"a step of {count(len(lanes), 'lane')}"
    for number, shown in enumerate(batches, first):
        thorough = number == first
        if alone:
            guard.note(shown, thorough=thorough)
        for lane in alone:
            if lane.failure or number < lane.begun:
                continue
            # In a pre-training stage lanes may differ in length, so each has its own clock.
            progress = torch.tensor((epoch + number / steps) / lane.total, device=setting.device)
            mine = shown.lent()
            batch = Batch(mine.image, mine.label, mine.idx, progress, mine.target)
            step = partial(lane.step, mine.teacher, batch)
            guard.run(lane, lane.when(), step, what=what)
            if guard.spoilt:
                shown = batches.again(number)
                guard.note(shown, thorough=thorough)
            lane.begun = number + 1
        watch.step(
            sum(bool(lane.failure) or lane.begun <= number + 1 for lane in lanes)
        )  # without those that join later
        if saver is not None and number + 1 < steps:
            for lane in saver.turn([lane for lane in alone if lane.begun == number + 1 and not lane.waiting]):
                own_seconds = sum(one.seconds for one in lanes) - before
                lane.shared = max(0.0, time.perf_counter() - started - own_seconds) / len(lanes)
                _save(lane, guard, saver)
                guard.note(shown)
    own_seconds = sum(lane.seconds for lane in lanes) - before
    shared = max(0.0, time.perf_counter() - started - own_seconds) / len(lanes)
    guard.note(thorough=True)
    for lane in lanes:
        if not lane.failure:
            guard.run(lane, lane.when(), partial(lane.end_epoch, shared))


def _captured(
    captures: Captures, setting: Setting, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
) -> Captured | None:
    with holds(f"the captured step of {count(len(lanes), 'lane')}", setting.device):
        return captures.of(setting.train, lanes, stage, show)


def _evaluate(
    setting: Setting, lanes: Sequence[Lane], teacher: Tensor | None, exams: Exams | None, guard: Guard
) -> None:
    with holds(f"the evaluation of {count(len(lanes), 'lane')}", setting.device):
        if exams is None:
            evaluate(lanes, setting.test, teacher, setting.fold, guard)
        else:
            exams.evaluate(lanes, setting.test, teacher)


def _validate(setting: Setting, lanes: Sequence[Lane], exams: Exams | None, guard: Guard) -> None:
    """``val_top1`` for the curves of lanes that have been tested; their reports stay those of the test images."""
    if setting.validation is None or not lanes:
        return
    tested = [lane.report for lane in lanes]
    with holds(f"the validation of {count(len(lanes), 'lane')}", setting.device):
        if exams is None:
            evaluate(lanes, setting.validation, None, setting.fold, guard)
        else:
            exams.evaluate(lanes, setting.validation, None)
    for lane, report in zip(lanes, tested, strict=True):
        if not lane.failure:
            lane.curve[-1]["val_top1"] = lane.report["top1"]
        lane.report = report


def _average(setting: Setting, lanes: Sequence[Lane], guard: Guard) -> None:
    """``ema_top1`` for the curves of lanes that keep averaged weights; their reports stay those of the raw ones."""
    for lane in lanes:
        assert lane.average is not None
        report = lane.report
        with holds(f"the evaluation of {lane.key}", setting.device), lane.average.shown():
            evaluate([lane], setting.test, None, setting.fold, guard)
        if not lane.failure:
            lane.curve[-1]["ema_top1"] = lane.report["top1"]
        lane.report = report


@torch.no_grad()
def look(setting: Setting, image: Tensor) -> Outputs:
    """The teacher's outputs on a batch, shared by every lane.

    >>> from kdbench.testing.examples import setting
    >>> look(setting(), torch.zeros(2, 3, 16, 16)).logits.shape
    torch.Size([2, 5])
    """
    assert setting.teacher is not None
    with setting.precision.autocast(setting.device):
        seen: Outputs = setting.teacher(image)
    return seen._replace(logits=seen.logits.float())
