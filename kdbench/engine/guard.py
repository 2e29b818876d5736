"""Around every call into a method's code: what goes wrong in there, or is changed by it, is its lane's failure alone.

A method may raise anything, change tensors that others are shown, and change the process that all
run in (threads, switches, folders, streams, random numbers ...). After each call the guard compares;
what was changed is put back, and the lane has failed with a sentence. What a step showed and cannot
be put back is ``spoilt``: it must be made anew for the lanes that follow.

Ctrl-C and other signals still end the run, wherever they come.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor

from kdbench.engine.errors import Failed, OutOfMemory, holds, said, text
from kdbench.engine.process import Process
from kdbench.engine.shared import Lasting, Passing, Shown

if TYPE_CHECKING:
    from kdbench.engine.lane import Lane

T = TypeVar("T")


class NotBuilt(Exception):
    """Why a method or its lane could not be made; the sentence is the cell's.

    >>> built("kd", lambda: 1 / 0)
    Traceback (most recent call last):
    kdbench.engine.guard.NotBuilt: ZeroDivisionError: division by zero
    """


class Signals:
    """Knows whether an exception comes from a signal (Ctrl-C), and not from a method that raises the like.

    Handlers are wrapped as long as this is entered; in other threads than the main one nothing can be known.

    >>> with Signals() as signals:
    ...     signals.meant(KeyboardInterrupt())  # raised by a method, not by Ctrl-C
    False
    """

    def __init__(self) -> None:
        self.raised: BaseException | None = None
        self.known = False
        self._before: dict[int, tuple[Any, Any]] = {}

    def __enter__(self) -> Self:
        self.raised = None
        self.known = threading.current_thread() is threading.main_thread()
        for number in signal.valid_signals() if self.known else ():
            handler = signal.getsignal(number)
            if callable(handler):
                ours = partial(self._handle, handler)
                signal.signal(number, ours)
                self._before[number] = handler, ours
        return self

    def __exit__(self, *_: object) -> None:
        for number, (handler, ours) in self._before.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, handler)
        self._before = {}

    def _handle(self, handler: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None) -> Any:
        try:
            return handler(number, frame)
        except BaseException as error:
            self.raised = error
            raise

    def meant(self, error: BaseException) -> bool:
        """Whether the run shall end with this error."""
        return self.raised is not None or (not self.known and issubclass(type(error), KeyboardInterrupt))


class Guard:
    """The guard of one group of lanes; entered as long as they train.

    Args:
        lasting: what their methods can reach all the time.
        building: no step will follow, so the bytes of that are compared in every thorough look.

    Attributes:
        spoilt: whether a lane changed what the present step shows.

    >>> from kdbench.testing.examples import lanes
    >>> import random
    >>> (lane,) = lanes("kd")
    >>> def work() -> None:
    ...     random.seed(0)  # numbers that the other lanes draw from, too
    >>> with Guard() as guard:
    ...     guard.note(thorough=True)
    ...     guard.run(lane, " in epoch 1", work)
    False
    >>> lane.failure
    "the method changed Python's random numbers in epoch 1; it may not change what others see, too"
    """

    def __init__(self, lasting: Sequence[Lasting] = (), *, building: bool = False) -> None:
        self.spoilt, self._building = False, building
        self._lasting, self._process, self._signals = lasting, Process(), Signals()
        self._passing: list[Passing] = []
        self._thorough = False
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self._held.callback(self._process.close)
        self._held.enter_context(self._signals)
        self._process.note()
        return self

    def __exit__(self, *_: object) -> None:
        self._passing = []
        self._held.close()

    def note(self, *shown: Shown, thorough: bool = False) -> None:
        """What is now is how it shall be; ``shown``: what the lanes of a step are about to see."""
        self.spoilt, self._thorough = False, thorough
        self._passing = [Passing(one, thorough=thorough) for one in shown]
        self._process.note(thorough=thorough)

    def run(
        self,
        lane: Lane,
        where: str,
        work: Callable[[], object],
        *,
        what: str = "",
        passing: tuple[type[Exception], ...] = (),
    ) -> bool:
        """Do a lane's work; what goes wrong is its ``failure``, unless it has one. Whether all went well.

        Args:
            lane: whose method it calls.
            where: for the sentence, such as " in epoch 1".
            work: what is done.
            what: does not fit, where the memory runs out.
            passing: errors that are not the method's.

        Raises:
            OutOfMemory: always passes, as do the errors in ``passing`` and those of signals.
        """
        reason = self.attempt(where, work, what=what or lane.key, device=lane.device, passing=passing)
        lane.failure = lane.failure or reason or None
        return not reason

    def attempt(
        self,
        where: str,
        work: Callable[[], object],
        *,
        what: str,
        device: torch.device | str,
        passing: tuple[type[Exception], ...] = (),
        say: Callable[[BaseException, str], str] = said,
    ) -> str:
        """As ``run``, for no lane in particular; the sentence, or nothing."""
        reason, ends = "", None
        try:
            with holds(what, device):
                work()
        except BaseException as error:  # a stranger's method may raise anything; the others go on
            if self.meant(error) or issubclass(type(error), (OutOfMemory, *passing)):
                ends = error
            else:
                reason = text(error) if issubclass(type(error), Failed) else say(error, where)
        changed = self.put_back()
        try:
            self.raise_swallowed()
            if ends is not None:
                raise ends
        finally:
            ends = None  # a circle of frame and error would keep the step's tensors
        if reason and changed:
            return f"{reason}; the method had changed {listed(changed)}"
        return reason or (sentence(changed, where) if changed else "")

    def meant(self, error: BaseException) -> bool:
        """Whether the run shall end with an error, since a signal is its cause."""
        return self._signals.meant(error)

    def raise_swallowed(self) -> None:
        """Raise the error of a signal that a method has caught."""
        if self._signals.raised is not None:
            raise self._signals.raised

    def put_back(self) -> list[str]:
        """Compare, and put back what can be; the names of what was changed."""
        changed = self._process.put_back()
        thorough = self._thorough and (self._building or bool(self._passing))
        touched = [what for lasting in self._lasting for what in lasting.put_back(thorough=thorough)]
        if touched:  # one tensor may be in two of them
            for lasting in self._lasting:
                lasting.settle()
        passed = [what for one in self._passing for what in one.changed()]
        self.spoilt = self.spoilt or bool(passed)
        return list(dict.fromkeys([*changed, *touched, *passed]))


def sentence(changed: Sequence[str], where: str) -> str:
    """Why a lane that changed something has failed."""
    return f"the method changed {listed(changed)}{where}; it may not change what others see, too"


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more there are.

    >>> listed(["the images", "the labels"]), listed("abcde")
    ('the images and the labels', 'a, b, c and 2 more')
    """
    return " and ".join(names) if len(names) < 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def lasting(named: Mapping[str, Iterable[Tensor]]) -> Lasting:
    """Tensors that methods can reach while they are built or trained, by what they are called in a sentence."""
    return Lasting(named)


def built(
    what: str,
    work: Callable[[], T],
    *,
    device: torch.device | str = "cpu",
    shared: Sequence[Lasting] = (),
    passing: tuple[type[Exception], ...] = (),
) -> T:
    """What ``work`` makes, a method or its lane, where nothing of others is changed by it.

    Raises:
        ValueError: the method refuses, in its own words.
        NotBuilt: anything else that goes wrong.
        OutOfMemory: ``what`` does not fit. It passes, as do the errors in ``passing`` and those of signals.

    >>> built("kd", lambda: "a method")
    'a method'
    """
    made: list[T] = []
    refused: list[str] = []

    def make() -> None:
        try:
            made.append(work())
        except ValueError as error:
            if passing and issubclass(type(error), passing):
                raise
            refused.append(text(error))

    with Guard(shared, building=True) as guard:
        guard.note(thorough=True)
        reason = guard.attempt("", make, what=what, device=device, passing=passing)
    if reason:
        raise NotBuilt(reason)
    if refused:
        raise ValueError(refused[0])
    return made[0]
