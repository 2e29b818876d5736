"""What a run and its groups say of themselves while they work, from the events that they emit anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from kdbench.run.grid import Cell
from kdbench.run.hearts import Training, beating, sweep
from kdbench.run.outcome import CellEnded, Emit, EpochEnded, Event, GroupBegins, LanesBegin, Standing, Stepped
from kdbench.utils.naming import cell_key

Function = TypeVar("Function", bound=Callable[..., Any])
#: Cells of a run, at most, whose files a sign of life names: it is written every few seconds.
TOLD = 2000


class Counted:
    """How much is behind, and how long the rest takes. A lane-step is one batch through one lane.

    >>> counted = Counted(clock=iter([0.0, 10.0]).__next__)
    >>> counted.total, counted.behind = 30, 10
    >>> counted.seconds_left()
    20.0
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.began = clock, clock()
        self.total = self.behind = self.resumed = 0

    def seconds_left(self) -> float | None:
        """None where nothing can be said yet."""
        now, left = self.behind - self.resumed, self.total - self.behind
        if now <= 0 or left < 0:
            return None
        return (self.clock() - self.began) / now * left


class GroupPulse:
    """Hears the events of a group.

    >>> pulse = GroupPulse(batch=64)
    >>> pulse.hear(GroupBegins("resnet20, seed 0", 30))
    >>> pulse.hear(Stepped(3))
    >>> pulse.facts()["title"]
    'resnet20, seed 0'
    """

    def __init__(self, batch: int) -> None:
        self._batch, self._title, self._counted = batch, "", Counted()
        self._lanes: dict[str, Training] = {}
        self._images, self._since, self._speed = 0, time.monotonic(), 0.0

    def hear(self, event: Event) -> None:
        """An event of the group."""
        match event:
            case GroupBegins(title, lane_steps):
                self._title, self._counted, self._lanes = title, Counted(), {}
                self._counted.total = lane_steps
            case LanesBegin(stage, lanes) | EpochEnded(stage, lanes):
                for lane in lanes:
                    self._stands(stage, lane)
            case Stepped(lanes):
                self._counted.behind += lanes
                self._images += lanes * self._batch
            case CellEnded(cell, _, _):
                self._lanes = {name: lane for name, lane in self._lanes.items() if name != str(cell)}

    def _stands(self, stage: str, lane: Standing) -> None:
        if lane.done or lane.failure:
            self._lanes.pop(lane.key, None)
        elif stage == "pretrain" and not lane.epoch and lane.terms == {} and lane.key in self._lanes:
            self._lanes[lane.key] = Training(name=lane.key, epoch=0, total=lane.total)  # it has entered the main stage
        else:
            self._lanes[lane.key] = Training(name=lane.key, epoch=lane.epoch, total=lane.total, stage=stage)

    def facts(self) -> dict[str, Any]:
        """For ``hearts.Heart``; called once for every sign of life."""
        images, seconds = self._images, time.monotonic() - self._since
        if images and seconds >= 1:  # none pass in an evaluation: what was before is still told
            self._speed, self._images, self._since = images / seconds, 0, time.monotonic()
        left = self._counted.seconds_left()
        return {
            "title": self._title,
            "lanes": list(self._lanes.values()),
            "speed": self._speed,
            "seconds_left": left,
        }


class RunPulse:
    """Hears a whole run, in place of who watches it, to whom everything is handed on."""

    def __init__(self, watch: Any, title: str, cells: Sequence[Cell]) -> None:
        self._watch, self._title, self._cells = watch, title, set(cells)
        self._ended: set[Cell] = set()
        self._counted = Counted()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def begin(self, lane_steps: int) -> None:
        """See ``outcome.Watcher``."""
        self._counted = Counted()
        self._counted.total = lane_steps
        self._watch.begin(lane_steps)

    def skip(self, lane_steps: int) -> None:
        """See ``outcome.Watcher``."""
        self._counted.behind += lane_steps
        self._counted.resumed += lane_steps
        self._watch.skip(lane_steps)

    def step(self, lanes: int) -> None:
        """See ``outcome.Watcher``."""
        self._counted.behind += lanes
        self._watch.step(lanes)

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """See ``outcome.Watcher``."""
        self._ended.add(cell)
        self._watch.cell(cell, status, sentence)

    def facts(self) -> dict[str, Any]:
        """For ``hearts.Heart``."""
        ended, left = self._ended & self._cells, self._cells - self._ended
        return {
            "title": self._title,
            "cells": len(self._cells),
            "ended": len(ended),
            "waiting": sorted(cell_key(cell.seed, cell.hash) for cell in left) if len(left) <= TOLD else [],
            "seconds_left": self._counted.seconds_left(),
        }


def group_alive(run_group: Function) -> Function:
    """A function of a group's work and of who is told, with signs of life while it works.

    >>> group_alive(len).__name__
    'len'
    """

    @wraps(run_group)
    def alive(work: Any, emit: Emit, *more: Any, **named: Any) -> Any:
        pulse = GroupPulse(int(work.cells[0].recipe["batch_size"]))

        def both(event: Event) -> None:
            pulse.hear(event)
            emit(event)

        with beating(work.home, "group", pulse.facts):
            return run_group(work, both, *more, **named)

    return cast(Function, alive)


def run_alive(run: Function) -> Function:
    """A function of a job and of who watches it, with signs of life while it works.

    >>> run_alive(len).__name__
    'len'
    """

    @wraps(run)
    def alive(job: Any, watch: Any, *more: Any, **named: Any) -> Any:
        states = job.states()
        missing = [cell for cell, state in states.items() if job.request.force or state in ("missing", "running")]
        if not missing:
            return run(job, watch, *more, **named)
        out = job.request.home or job.request.out
        sweep(out)
        pulse = RunPulse(watch, f"suite {job.suite.name}", missing)
        with beating(out, "run", pulse.facts):
            return run(job, pulse, *more, **named)

    return cast(Function, alive)
