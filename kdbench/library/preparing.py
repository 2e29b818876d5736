"""What ``Attached.prepare`` goes through: batches of a loader, rates, numbers of steps and epochs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from kdbench.distiller import Distiller
from kdbench.engine.schedule import Plan
from kdbench.library.numbers import whole_number
from kdbench.utils.wording import printable


def counted(loader: Iterable[Any]) -> Collection[Any]:
    """An epoch's batches, whose number is known: a stream's are collected."""
    try:
        len(loader)  # type: ignore[arg-type]
    except TypeError:
        return list(loader)
    return loader  # type: ignore[return-value]


def parts(batch: Any) -> tuple[Any, ...]:
    """Images, labels and, where they are there, positions of a loader's batch."""
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise ValueError(f"a batch of the loader is (images, labels) or (images, labels, idx), not a {kind(batch)}")
    return tuple(batch[:3])


def kind(value: Any) -> str:
    """What a value is, for a sentence: its type, and of a list how many it holds.

    >>> kind([1, 2]), kind(3)
    ('list of 2', 'int')
    """
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else type(value).__name__


def rate(plan: Plan, method: Distiller, epoch: int, total: int) -> float:
    """As ``Plan.pretrain_rate``, for a stage of ``total`` epochs."""
    start = plan.lr if method.pretrain_lr is None else method.pretrain_lr
    return start * 0.1 ** sum(epoch / total >= drop for drop in method.pretrain_drops)


def steps_of(steps: Any) -> int | None:
    """Calls of a stage, or None where nobody says.

    Raises:
        ValueError: they are no number of calls.
    """
    found = None if steps is None else whole_number(steps)
    if steps is not None and (found is None or found < 1):
        raise ValueError(f"steps is the number of calls of the main stage, 1 or more, not {printable(repr(steps), 60)}")
    return found
