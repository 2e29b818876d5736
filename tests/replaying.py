"""A machine that captures and replays on the CPU: a capture changes nothing, a replay gives the same tensors.

What a real one can get wrong is put between a replay and its step by ``spoil``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from kdbench.engine.graph.backend import Eager, Machine
from kdbench.engine.graph.rollback import undone
from kdbench.engine.graph.train_step import Captured


class Replaying(Eager):
    """Args: ``spoil``: asked with the captured steps and the number of the replay; what happens around it."""

    captures = True

    def __init__(self, spoil: Callable[[Captured, int], AbstractContextManager[object]] | None = None) -> None:
        self.spoil = spoil or (lambda made, number: nullcontext())
        self.replays = 0
        self.held: list[list[str]] = []  # of each capture, the lanes
        self.drew: list[str] = []

    def apart(self) -> Machine:
        return Eager()

    def drawing(self, lanes: Any) -> None:
        self.drew = [lane.key for lane in lanes]

    def record(self, step: Any) -> tuple[Callable[[], object], Any]:
        made: Captured = step.func.__self__
        self.held.append([lane.key for lane in made.lanes])
        with ExitStack() as undo:
            for lane in made.lanes:
                undo.enter_context(undone(lane))
            number, seen = made._number.clone(), made._seen.clone()
            made._number.fill_(made._sizes.index(step.args[0]))
            shown = step()
            made._number.copy_(number)
            made._seen.copy_(seen)

        def replay() -> None:
            with self.spoil(made, self.replays):
                new = step()
            self.replays += 1
            for old, now in zip(shown.named(), new.named(), strict=True):
                old[1].copy_(now[1])

        return replay, shown


@contextmanager
def skipped(made: Captured, key: str) -> Iterator[None]:
    """A lane's branch is lost."""
    with ExitStack() as undo:
        for lane in made.lanes:
            if lane.key == key:
                undo.enter_context(undone(lane))
        yield


@contextmanager
def at_rate(made: Captured, factor: float) -> Iterator[None]:
    """The graph has the rate of another day."""
    groups = [group for lane in made.lanes for group in lane.optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = group["lr"] * factor
    yield
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


@contextmanager
def other_batch(made: Captured) -> Iterator[None]:
    """The counter points to a neighbour."""
    away = -1 if made._number else 1
    made._number += away
    yield
    made._number -= away
