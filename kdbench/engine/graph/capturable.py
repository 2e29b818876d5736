"""What keeps a piece of work out of a graph, told apart from memory that is too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdbench.engine.errors import OutOfMemory, first_cause, holds
from kdbench.engine.guard import Guard, sentence

#: Steps before a capture, as torch asks for: libraries start, kernels are chosen.
REHEARSALS = 3


class CannotCapture(Exception):
    """Why a lane's step cannot be repeated without the host.

    >>> with capturable("a step of kd", torch.device("cpu")):
    ...     raise ZeroDivisionError("division by zero")
    Traceback (most recent call last):
    kdbench.engine.graph.capturable.CannotCapture: ZeroDivisionError: division by zero
    """


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
