"""What goes wrong in training, told apart and said in one place.

An error may come from a stranger's method, so nothing of it is trusted: its text may raise, hold
line breaks, control characters or a million letters, and its chain of causes may be a circle.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from kdbench.utils.wording import LENGTH, printable

_FULL = re.compile(
    r"out of memory|not enough memory|(?:can't|cannot|can not|could not|unable to|failed to) allocate"
    r"|alloc(?:ation)?[_ ]failed|bad_alloc|insufficient memory|cudaerrormemoryallocation"
)


class OutOfMemory(Exception):
    """The device has not enough memory; the message says for what.

    Its traceback keeps alive whatever the frames that it left hold. Whoever tries again calls
    ``release`` on it first.

    >>> with holds("the teacher", "cuda:0"):
    ...     raise torch.OutOfMemoryError("CUDA out of memory")
    Traceback (most recent call last):
    kdbench.engine.errors.OutOfMemory: the teacher does not fit into the memory of cuda:0
    """


class Failed(Exception):
    """A failure of one lane whose message is its sentence."""


@contextmanager
def holds(what: str, device: torch.device | str) -> Iterator[None]:
    """Whatever inside runs out of memory, and however it says so, raises ``OutOfMemory``; ``what`` is singular.

    What the failed attempt's frames held is let go.

    Raises:
        OutOfMemory: "<what> does not fit into the memory of <device>"; one from inside stays as it is.

    >>> with holds("one lane", "cpu"):
    ...     raise MemoryError
    Traceback (most recent call last):
    kdbench.engine.errors.OutOfMemory: one lane does not fit into the memory of cpu
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        release(error)
        raise OutOfMemory(f"{what} does not fit into the memory of {device}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out, on any device.

    A RuntimeError is also asked what was being handled when it was raised: a capture that an error
    ended says no more than that it was ended.

    >>> out_of_memory(RuntimeError("unable to allocate 2 GB")), out_of_memory(ValueError("no such thing"))
    (True, False)
    """
    return any(_full(one) for one in _chain(error, causes=True))


def _full(error: BaseException) -> bool:
    if _is(error, OutOfMemory, torch.OutOfMemoryError, MemoryError):
        return True
    if _is(error, OSError):
        return bool(_own(OSError, "errno", error) == errno.ENOMEM)
    return _is(error, RuntimeError) and _FULL.search(text(error, 10_000).lower()) is not None


def release(error: BaseException) -> None:
    """Let go of what the frames hold that an error and its causes passed through: tensors of a failed attempt.

    >>> try:
    ...     raise ValueError("no such thing")
    ... except ValueError as error:
    ...     release(error)
    ...     print(error.__traceback__)
    None
    """
    for one in _chain(error):
        trace: TracebackType | None = _own(BaseException, "__traceback__", one)
        if trace is not None:
            BaseException.with_traceback(one, None)
            traceback.clear_frames(trace)


def first_cause(error: BaseException) -> str:
    """The first cause, on one line."""
    *_, first = _contexts(error)
    return said(first)


def said(error: BaseException, where: str = "") -> str:
    r"""An error on one printable line of bounded length: "TypeError in epoch 1: no such thing". Never raises.

    Args:
        error: any, a stranger's with its own ideas of text included.
        where: follows the error's name, such as " in epoch 1".

    >>> said(TypeError("no such\nthing"), " in epoch 1")
    'TypeError in epoch 1: no such thing'
    """
    name = printable(_own(type, "__name__", type(error)), 80)
    words = text(error)
    return f"{name}{where}: {words}" if words else f"{name}{where}"


def text(error: BaseException, length: int = LENGTH) -> str:
    r"""What an error says, on one printable line of at most ``length`` letters; never raises.

    >>> text(ValueError("no such\nthing"))
    'no such thing'
    """
    try:
        found = str(error)
    except BaseException as worse:  # whatever a stranger's __str__ does
        name = printable(_own(type, "__name__", type(worse)), 80)
        return f"its text cannot be read, that raises {name}"
    return printable(found, length)


def _chain(error: BaseException, *, causes: bool = False) -> Iterator[BaseException]:
    """The error and all that hangs on it, each once; ``causes``: of those, what may have been its cause."""
    ahead, seen = [error], set[int]()
    while ahead:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        linked: list[Any] = [_own(BaseException, "__cause__", one)]
        linked += [_own(BaseException, "__context__", one)] if _is(one, RuntimeError) or not causes else []
        linked += _own(BaseExceptionGroup, "exceptions", one) if _is(one, BaseExceptionGroup) else ()
        ahead += [other for other in linked if other is not None]


def _contexts(error: BaseException) -> Iterator[BaseException]:
    """The error, what was being handled when it was raised, and so on."""
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = _own(BaseException, "__context__", found)


def _is(error: BaseException, *kinds: type[BaseException]) -> bool:
    """As isinstance, which would ask the error itself for its class."""
    return issubclass(type(error), kinds)


def _own(base: type, name: str, of: Any) -> Any:
    """An attribute as ``base`` defines it, whatever a subclass has put in its place."""
    return vars(base)[name].__get__(of)
