"""The process that all lanes run in: what a method could change for the others, looked at and put back.

Each ``Fact`` is one such thing. Those that cost little are looked at after every call of a method,
the others when an epoch begins. What imports change, too - many libraries do, when torch loads them
for its own use - is put back but not held against a method in whose call something was imported.

Out of reach: ``os._exit`` and a crash of the interpreter end the process, whoever asks.
"""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple

import numpy as np

from kdbench.engine import torch_state
from kdbench.engine.fact import Fact, identical

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
_STREAMS = ("stdin", "stdout", "stderr", "__stdout__", "__stderr__")


class Process:
    """The state of the process as it was when ``note`` was last called.

    torch's random numbers are not in it: a method may draw them, and each lane has its own.

    >>> process = Process()
    >>> process.note()
    >>> import torch
    >>> torch.set_default_dtype(torch.float64)
    >>> process.put_back(), torch.get_default_dtype()
    (['the default dtype'], torch.float32)
    >>> process.close()
    """

    def __init__(self) -> None:
        self._files = _Files()
        cheap, dear = _cheap(self._files), _dear()
        self._facts = {False: cheap, True: [*cheap, *dear]}
        self._before: list[Any] = []
        self._thorough = False
        self._modules = 0

    def note(self, *, thorough: bool = False) -> None:
        """This is how it shall be, from now on; ``thorough``: in the things that cost more to look at, too."""
        self._thorough, self._modules = thorough, len(sys.modules)
        self._before = [fact.look() for fact in self._facts[thorough]]

    def put_back(self, *, own: int = 0) -> list[str]:
        """Make it what it was; the names of what was not, and may not be changed.

        ``own``: so many modules were imported by who asks, so that they excuse nothing.
        """
        changed, again = [], False
        imported = len(sys.modules) - own > self._modules
        for fact, before in zip(self._facts[self._thorough], self._before, strict=True):
            if _is_as(fact, before):
                continue
            again = True
            with suppress(Exception):
                fact.put(before)
            if not (fact.imports and imported):
                changed.append(fact.what if _is_as(fact, before) else f"{fact.what}, which cannot be put back")
        if again or imported:  # streams may be new ones, and what cannot be put back is how it is now
            self.note(thorough=self._thorough)
        return changed

    def close(self) -> None:
        """Let go of what was held to put things back."""
        self._files.close()


def _is_as(fact: Fact, before: Any) -> bool:
    try:
        return fact.same(before, fact.look())
    except Exception:  # what a stranger has put there may raise when it is looked at
        return False


# -- standard streams and their files ---------------------------------------------------------------


class _Files:
    """Standard input, output and error as the system has them: copies of them to restore them from."""

    def __init__(self) -> None:
        self._known: tuple[object, ...] = ()
        self._copies: dict[int, int] = {}

    def look(self) -> tuple[object, ...]:
        found = tuple(_file(number) for number in range(3))
        if found != self._known and not self._copies:
            self._copies = {number: os.dup(number) for number, one in enumerate(found) if one is not None}
            self._known = found
        return found

    def put(self, before: tuple[object, ...]) -> None:
        for number, one in enumerate(before):
            if _file(number) == one:
                continue
            if number in self._copies and one == _file(self._copies[number]):
                os.dup2(self._copies[number], number)
            elif one is None:
                os.close(number)

    def close(self) -> None:
        for copy in self._copies.values():
            with suppress(OSError):
                os.close(copy)
        self._copies, self._known = {}, ()


def _file(number: int) -> object:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Streams(NamedTuple):
    objects: tuple[Any, ...]
    closed: tuple[object, ...]


def _streams() -> _Streams:
    objects = tuple([getattr(sys, name, None) for name in _STREAMS])
    return _Streams(objects, tuple([_closed(stream) for stream in objects]))


def _closed(stream: Any) -> object:
    try:
        return stream is None or bool(stream.closed)
    except Exception:
        return None


def _same_streams(before: _Streams, now: _Streams) -> bool:
    return identical(before.objects, now.objects) and before.closed == now.closed


def _put_streams(before: _Streams) -> None:
    opened: dict[int, Any] = {}  # sys.stdout and sys.__stdout__ are one object as a rule
    for name, stream, closed in zip(_STREAMS, before.objects, before.closed, strict=True):
        if _closed(stream) != closed:
            if id(stream) not in opened:
                opened[id(stream)] = _opened(name.strip("_"), stream)
            stream = opened[id(stream)]
        setattr(sys, name, stream)


def _opened(name: str, old: Any) -> IO[str]:
    """A stream in the place of one that was closed."""
    number = ("stdin", "stdout", "stderr").index(name)
    mode = "w" if number else "r"
    if isinstance(old, io.StringIO) or _file(number) is None:
        return open(os.devnull, mode, encoding="utf-8")
    return open(number, mode, encoding=getattr(old, "encoding", None), errors="replace", closefd=False)


# -- the rest of the process ------------------------------------------------------------------------


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _timers() -> tuple[bool, ...]:
    return tuple(signal.getitimer(which)[0] > 0 for which in range(3)) if hasattr(signal, "getitimer") else ()


def _put_timers(before: tuple[bool, ...]) -> None:
    for which, running in enumerate(before):
        if not running:
            signal.setitimer(which, 0)


def _handlers(numbers: Sequence[int]) -> Callable[[], tuple[Any, ...]]:
    return lambda: tuple(map(signal.getsignal, numbers))


def _put_handlers(numbers: Sequence[int]) -> Callable[[tuple[Any, ...]], None]:
    def put(before: tuple[Any, ...]) -> None:
        for number, handler in zip(numbers, before, strict=True):
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return put


#: Beginnings of variables that torch's compiler and OpenMP set for themselves while they run.
_OF_TORCH = ("TORCH", "_TORCH", "TRITON", "KMP_")


class _Environment(NamedTuple):
    object: Any
    values: dict[Any, Any]


def _environment() -> _Environment:
    return _Environment(os.environ, dict(vars(os.environ)["_data"]))


def _same_environment(before: _Environment, now: _Environment) -> bool:
    if before.object is not now.object or before.values == now.values:
        return before.object is now.object
    differing = {name for name, _ in before.values.items() ^ now.values.items()}
    return all(os.fsdecode(name).startswith(_OF_TORCH) for name in differing)


def _put_environment(before: _Environment) -> None:
    vars(os)["environ"] = before.object
    names = {os.fsdecode(name): os.fsdecode(value) for name, value in before.values.items()}
    for name in [name for name in os.environ if name not in names and not name.startswith(_OF_TORCH)]:
        del os.environ[name]
    for name, value in names.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


class _Warnings(NamedTuple):
    object: Any
    filters: list[Any]
    shows: tuple[Any, ...]


def _warnings() -> _Warnings:
    found: Any = warnings.filters
    return _Warnings(found, list(found), (warnings.showwarning, warnings.warn, warnings.formatwarning))


def _put_warnings(before: _Warnings) -> None:
    warnings.filters = before.object
    before.object[:] = before.filters
    vars(warnings).get("_filters_mutated", lambda: None)()
    warnings.showwarning, warnings.warn, warnings.formatwarning = before.shows


def _same_warnings(before: _Warnings, now: _Warnings) -> bool:
    same = before.object is now.object and identical(before.shows, now.shows)
    return same and before.filters == now.filters


def _interpreter() -> tuple[Any, ...]:
    return sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile(), sys.unraisablehook, threading.excepthook


def _put_interpreter(before: tuple[Any, ...]) -> None:
    sys.excepthook, sys.displayhook, trace, profile, sys.unraisablehook, threading.excepthook = before
    if sys.gettrace() is not trace:
        sys.settrace(trace)
    if sys.getprofile() is not profile:
        sys.setprofile(profile)


def _put_gc(before: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_threshold(*before[1])


def _cheap(files: _Files) -> list[Fact]:
    """What is looked at after every call."""
    return [
        *torch_state.cheap(),
        Fact("the current folder", _cwd, os.chdir),
        Fact("the files of standard input and output", files.look, files.put),
        Fact("standard output or error", _streams, _put_streams, _same_streams),
        Fact("the signal handlers", _handlers(_SIGNALS), _put_handlers(_SIGNALS), identical),
        Fact("the timers", _timers, _put_timers),
        Fact("the environment variables", _environment, _put_environment, _same_environment, imports=True),
        Fact("the warnings filters", _warnings, _put_warnings, _same_warnings, imports=True),
        Fact("the interpreter's hooks", _interpreter, _put_interpreter, identical),
        # torch's compiler raises it.
        Fact("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, lambda old, new: new >= old),
        Fact("the garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _put_gc),
    ]


def _dear() -> list[Fact]:
    """What is looked at when an epoch begins."""
    numbers = sorted(signal.valid_signals())
    return [
        *torch_state.dear(),
        Fact("all signal handlers", _handlers(numbers), _put_handlers(numbers), identical),
        Fact("Python's random numbers", random.getstate, random.setstate, imports=True),
        Fact("numpy's random numbers", _numpy, lambda before: np.random.set_state(before[0]), _same_numpy),
        Fact("numpy's handling of errors", np.geterr, lambda before: np.seterr(**before)),
        *_of_the_system(),
    ]


def _numpy() -> tuple[Any, list[Any]]:
    state: Any = np.random.get_state(legacy=False)
    inner = state.pop("state")
    flat = [*state.values(), *inner.values()]
    plain = [value.tobytes() if isinstance(value, np.ndarray) else value for value in flat]
    return state | {"state": inner}, plain


def _same_numpy(before: tuple[Any, list[Any]], now: tuple[Any, list[Any]]) -> bool:
    return before[1] == now[1]


def _of_the_system() -> Iterator[Fact]:
    import locale

    yield Fact("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda old: locale.setlocale(locale.LC_ALL, old))

    def mask() -> int:
        found = os.umask(0o077)
        os.umask(found)
        return found

    yield Fact("the mode of new files", mask, os.umask)
    if hasattr(os, "sched_getaffinity"):
        yield Fact("the processors", lambda: os.sched_getaffinity(0), lambda old: os.sched_setaffinity(0, old))
    try:
        import resource
    except ImportError:  # Windows
        return
    kinds = [getattr(resource, name) for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE", "RLIMIT_FSIZE")]

    def put(before: list[tuple[int, int]]) -> None:
        for kind, limits in zip(kinds, before, strict=True):
            if resource.getrlimit(kind) != limits:
                resource.setrlimit(kind, limits)

    yield Fact("the limits of the process", lambda: list(map(resource.getrlimit, kinds)), put)
