"""The training loop: one teacher pass per batch serves every lane. The one visible loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from kdbench.distiller import Batch, Outputs
from kdbench.engine import memory
from kdbench.engine.errors import OutOfMemory, holds
from kdbench.engine.evaluate import Fold, evaluate, predictions
from kdbench.engine.graph.backend import Machine
from kdbench.engine.graph.cached_teacher import Resident
from kdbench.engine.graph.eval_step import Exams
from kdbench.engine.graph.train_step import Captured, Captures
from kdbench.engine.lane import STAGES, Diverged, Lane
from kdbench.engine.precision import Precision
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.reader import Lesson, widest
from kdbench.utils.wording import count


class Loader(Protocol):
    """What the loop needs of the training data."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(image, label, idx) batches; the same ones whenever the same epoch is asked for."""
        ...


class Watcher(Protocol):
    """Told how far a group of lanes is; never asked anything."""

    def step(self, lanes: int) -> None:
        """A batch has been through ``lanes`` lanes."""

    def epoch(self, stage: str, lanes: Sequence[Lane]) -> None:
        """An epoch of these lanes is finished, evaluated and saved."""


@dataclass(frozen=True)
class Setting:
    """What all lanes of a group share."""

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


def fit(setting: Setting, lanes: Sequence[Lane], watch: Watcher, finish: Callable[[Lane], None]) -> None:
    """Train lanes in lock-step to their end; call ``finish`` for each that is done or has failed.

    Lanes may stand at different epochs (some resumed): each joins when its own epoch comes.

    Raises:
        OutOfMemory: what did not fit; fewer lanes at once may.
    """
    with holds(f"the training of {count(len(lanes), 'lane')}", setting.device):
        _fit(setting, lanes, watch, finish)


def _fit(setting: Setting, lanes: Sequence[Lane], watch: Watcher, finish: Callable[[Lane], None]) -> None:
    teacher_says = None
    judge = setting.teacher if setting.judge is None else setting.judge
    if judge is not None:
        with holds("the teacher's evaluation", setting.device):
            teacher_says = predictions(judge, setting.test(), setting.precision)[0].argmax(dim=1)
    captures = None if setting.machine is None else Captures(setting.machine, setting.note, setting.resident)
    exams, mocks = (
        None if setting.machine is None else Exams(setting.machine, setting.note, setting.fold) for _ in range(2)
    )
    for stage in STAGES:
        for epoch in range(max(lane.pretrain_total if stage == "pretrain" else lane.plan.epochs for lane in lanes)):
            active = [lane for lane in lanes if not lane.failure and (lane.stage, lane.epoch) == (stage, epoch)]
            if not active:
                continue
            train_epoch(setting, active, stage, epoch, watch, captures)
            due = [lane for lane in active if not lane.failure and stage == "train" and lane.plan.evaluates(epoch)]
            if due:
                _evaluate(setting, due, teacher_says, exams)
                _validate(setting, [lane for lane in due if not lane.failure], mocks)
            for lane in due:
                if lane.failure:
                    continue
                lane.curve[-1]["top1"] = lane.report["top1"]
                if not math.isfinite(lane.report["nll"]):
                    lane.failure = f"the logits were not finite after epoch {epoch + 1}; try {lane.remedy()}"
            watch.epoch(stage, active)
            for lane in active:
                if lane.failure or lane.done:
                    finish(lane)
                else:
                    with holds(f"the checkpoint of {lane.key}", "cpu"):
                        lane.save()


def split(setting: Setting, lanes: Sequence[Lane], free: int | None) -> list[list[Lane]]:
    """Lanes in groups that the memory holds, in their order.

    Args:
        setting: theirs.
        lanes: of one group of cells.
        free: bytes of main memory that can still be had, for lanes on the CPU; None: not known.

    Raises:
        OutOfMemory: not even one step of one of them fits.
    """
    if setting.device.type != "cuda":
        needs = [memory.standing(lane) for lane in lanes]
        sizes = [len(lanes)] if free is None else memory.pack(needs, free, memory.CPU_SHARE)
    else:
        try:
            with holds("one lane", setting.device):
                image, label, idx = next(iter(setting.train.epoch(0)))
                batch = Batch(image, label, idx, torch.tensor(0.0, device=setting.device))
                seen = None if setting.teacher is None else look(setting, image)
                needs = [memory.peak(lane, seen, batch) for lane in lanes]
        except OutOfMemory:
            raise
        except Exception:
            return [list(lanes)]  # a method that raises says so when it is trained
        sizes = memory.pack(needs, memory.free(setting.device), memory.SHARE)
    ends = list(accumulate(sizes))
    return [list(lanes[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def train_epoch(
    setting: Setting, lanes: Sequence[Lane], stage: str, epoch: int, watch: Watcher, captures: Captures | None = None
) -> None:
    """One epoch of lock-step training of lanes that stand at it. Nothing in here waits for the device.

    ``captures`` belongs to this group of lanes over all its epochs; None: the plain loop.

    Raises:
        OutOfMemory: with the number of lanes that did not fit.
    """
    started, before = time.perf_counter(), sum(lane.seconds for lane in lanes)
    for lane in lanes:
        lane.start_epoch()
    show = partial(look, setting) if any(lane.method.needs_teacher for lane in lanes) else None
    captured = None if captures is None else _captured(captures, setting, lanes, stage, show)
    kept = setting.table if show is not None and stage == "train" and captured is None else None
    lesson = None if kept is None else Lesson(kept, epoch, widest(lanes))
    alone = [lane for lane in lanes if captured is None or lane not in captured.lanes]
    steps = len(setting.train)
    for number, (image, label, idx, seen) in enumerate(_batches(setting, captured, stage, epoch, show, lesson)):
        going = [lane for lane in alone if not lane.failure]
        for lane in going:
            # In a pre-training stage lanes may differ in length, so each has its own clock.
            progress = torch.tensor((epoch + number / steps) / lane.total, device=setting.device)
            try:
                with holds(f"a step of {count(len(lanes), 'lane')}", setting.device):
                    lane.step(seen, Batch(image, label, idx, progress))
            except OutOfMemory:
                raise
            except Exception as error:  # a stranger's method may raise anything; the others go on
                lane.failure = f"{type(error).__name__} in epoch {epoch + 1}: {error}"
        watch.step(len(lanes))
    own = sum(lane.seconds for lane in lanes) - before
    shared = max(0.0, time.perf_counter() - started - own) / len(lanes)
    for lane in lanes:
        try:
            if not lane.failure:
                lane.end_epoch(shared)
        except Diverged as error:
            lane.failure = str(error)


def _batches(
    setting: Setting,
    captured: Captured | None,
    stage: str,
    epoch: int,
    show: Callable[[Tensor], Outputs] | None,
    lesson: Lesson | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Outputs | None]]:
    """Batches of an epoch with what the teacher says to each; captured lanes have been trained on them."""
    if captured is not None:
        with holds(f"a step of {count(len(captured.lanes), 'lane')}", setting.device):
            yield from captured.epoch(epoch)
        return
    with holds("a batch of training images", setting.device):
        for number, (image, label, idx) in enumerate(setting.train.epoch(epoch, stage=stage)):
            with holds("the teacher", setting.device):
                seen = lesson(number, image) if lesson is not None else None if show is None else show(image)
            yield image, label, idx, seen


def _captured(
    captures: Captures, setting: Setting, lanes: Sequence[Lane], stage: str, show: Callable[[Tensor], Outputs] | None
) -> Captured | None:
    with holds(f"the captured step of {count(len(lanes), 'lane')}", setting.device):
        return captures.of(setting.train, lanes, stage, show)


def _evaluate(setting: Setting, lanes: Sequence[Lane], teacher: Tensor | None, exams: Exams | None) -> None:
    with holds(f"the evaluation of {count(len(lanes), 'lane')}", setting.device):
        if exams is None:
            evaluate(lanes, setting.test, teacher, setting.fold)
        else:
            exams.evaluate(lanes, setting.test, teacher)


def _validate(setting: Setting, lanes: Sequence[Lane], exams: Exams | None) -> None:
    """``val_top1`` for the curves of lanes that have been tested; their reports stay those of the test images."""
    if setting.validation is None or not lanes:
        return
    tested = [lane.report for lane in lanes]
    with holds(f"the validation of {count(len(lanes), 'lane')}", setting.device):
        if exams is None:
            evaluate(lanes, setting.validation, None, setting.fold)
        else:
            exams.evaluate(lanes, setting.validation, None)
    for lane, report in zip(lanes, tested, strict=True):
        if not lane.failure:
            lane.curve[-1]["val_top1"] = lane.report["top1"]
        lane.report = report


@torch.no_grad()
def look(setting: Setting, image: Tensor) -> Outputs:
    """The teacher's outputs on a batch, shared by every lane."""
    assert setting.teacher is not None
    with setting.precision.autocast(setting.device):
        seen: Outputs = setting.teacher(image)
    return seen._replace(logits=seen.logits.float())
