"""Errors: memory that ran out is known in every costume and let go of; any error is said on one plain line."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdbench.engine.errors import OutOfMemory, first_cause, holds, out_of_memory, release, said, text
from kdbench.terminal.guard import Failure, sentences
from kdbench.utils.wording import LENGTH


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def chained(first: Exception, *, explicit: bool, then: Exception) -> BaseException:
    def work() -> None:
        try:
            raise first
        except Exception as error:
            if explicit:
                raise then from error
            raise then  # noqa: B904

    return raised(work)


FULL: list[BaseException] = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB)"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    chained(torch.OutOfMemoryError("x"), explicit=True, then=ValueError("no graph")),
    chained(torch.OutOfMemoryError("x"), explicit=False, then=RuntimeError("operation failed during capture")),
    ExceptionGroup("several", [ValueError("no"), ExceptionGroup("inner", [MemoryError()])]),
    OutOfMemory("the teacher does not fit into the memory of cpu"),
]


@pytest.mark.parametrize("error", FULL, ids=range(len(FULL)))
def test_memory_that_ran_out_is_known_in_every_costume(error: Exception) -> None:
    assert out_of_memory(error)
    with pytest.raises(OutOfMemory) as told, holds("the teacher", "cpu"):
        raise error
    assert str(told.value) == "the teacher does not fit into the memory of cpu"


OTHER: list[BaseException] = [
    ValueError("out of memory"),  # a method's own words
    RuntimeError("size mismatch"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyboardInterrupt(),
    chained(MemoryError(), explicit=False, then=TypeError("raised while another was handled")),
]


@pytest.mark.parametrize("error", OTHER, ids=range(len(OTHER)))
def test_other_errors_pass(error: BaseException) -> None:
    assert not out_of_memory(error)
    with pytest.raises(type(error)) as told, holds("the teacher", "cpu"):
        raise error
    assert told.value is error


def test_the_innermost_says_what_did_not_fit() -> None:
    with pytest.raises(OutOfMemory, match=r"^inside does not fit into the memory of cpu$"), holds("outside", "cpu"):  # noqa: SIM117
        with holds("inside", "cpu"):
            raise MemoryError


def attempt(kept: list[weakref.ref[torch.Tensor]]) -> None:
    """Three frames, each with a tensor; the last one runs out of memory, in a capture that is ended by it."""

    def deepest(given: torch.Tensor) -> None:
        mine = torch.zeros(3)
        kept.append(weakref.ref(mine))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def middle() -> None:
        own = torch.zeros(2)
        kept.append(weakref.ref(own))
        try:
            deepest(own)
        except RuntimeError as error:
            raise RuntimeError("the capture was ended") from error

    top = torch.zeros(1)
    kept.append(weakref.ref(top))
    with holds("a step", "cpu"):
        middle()


def test_a_failed_attempt_is_not_kept_alive_while_it_is_tried_again() -> None:
    gc.collect()
    gc.disable()  # what is let go must go at once, not when the collector comes
    try:
        kept: list[weakref.ref[torch.Tensor]] = []
        try:
            attempt(kept)
        except OutOfMemory as error:
            top, middle, deepest = (one() is not None for one in kept)
            assert (middle, deepest) == (False, False)  # frames below ``holds``, whoever catches it
            assert top  # those above, while the error is at hand ...
            release(error)
            assert kept[0]() is None  # ... and was not let go of
        else:
            raise AssertionError
    finally:
        gc.enable()


# -- what is said ---------------------------------------------------------------------------------


class _Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError("nameless")


class Nameless(Exception, metaclass=_Meta):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")


class NoString(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


class Sly(str):
    def __getitem__(self, key: Any) -> str:
        raise ValueError

    encode = split = __format__ = __str__ = __iter__ = __len__ = __getitem__  # type: ignore[assignment]


class Slyness(Exception):
    def __str__(self) -> str:
        return Sly("sly\nwords")


class Liar(BaseException):
    __class__ = property(lambda self: 1 / 0)
    __cause__ = __context__ = __traceback__ = property(lambda self: 1 / 0)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TypeError("no such thing"), "TypeError in epoch 1: no such thing"),
        (ValueError(), "ValueError in epoch 1"),
        (ValueError("two\n lines\tand more\r\n"), "ValueError in epoch 1: two lines and more"),
        (ValueError("\x1b[31mred\x07"), r"ValueError in epoch 1: \x1b[31mred\x07"),
        (ValueError("\ud800 alone"), r"ValueError in epoch 1: \ud800 alone"),
        (ValueError("\u202eturned\u200b"), r"ValueError in epoch 1: \u202eturned\u200b"),
        (ValueError("[/a] \\[/b] naïve"), "ValueError in epoch 1: [/a] \\[/b] naïve"),
        (Mute(), "Mute in epoch 1: its text cannot be read, that raises SystemExit"),
        (NoString(), "NoString in epoch 1: its text cannot be read, that raises TypeError"),
        (Slyness(), "Slyness in epoch 1: sly words"),
        (Nameless("x"), "Nameless in epoch 1: x"),
        (lambda: Liar("x"), "Liar in epoch 1: x"),
        (type("A\x1b\nB", (Exception,), {})("x"), r"A\x1b B in epoch 1: x"),
        (SystemExit(3), "SystemExit in epoch 1: 3"),
        (GeneratorExit(), "GeneratorExit in epoch 1"),
    ],
)
def test_any_error_is_said_on_one_plain_line(error: Any, sentence: str) -> None:
    error = error() if callable(error) else error  # pytest looks at its parameters
    assert said(error, " in epoch 1") == sentence
    assert sentence.isprintable()
    assert not out_of_memory(error)
    release(error)


def test_a_long_text_is_cut() -> None:
    assert len(text(ValueError("x" * 10**6))) == LENGTH
    assert text(ValueError("x" * 10**6)).endswith("xxx...")
    assert len(said(type("N" * 10**4, (Exception,), {})("\x00" * 10**4))) < 2 * LENGTH


def test_the_first_cause_is_found_in_a_circle_too() -> None:
    assert first_cause(chained(KeyError("first"), explicit=False, then=ValueError("then"))) == "KeyError: 'first'"
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__context__, two.__context__ = two, one
    assert first_cause(one) == "RuntimeError: two"
    assert not out_of_memory(one)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EIO, 1), (errno.EMFILE, 1), (errno.EACCES, 2), (errno.ENOENT, 2)]
)
def test_what_the_machine_lacks_is_nothing_that_the_user_has_typed(number: int, code: int) -> None:
    @sentences
    def verb() -> None:
        raise OSError(number, os.strerror(number), "board.csv")

    with pytest.raises(Failure, match=f"^board.csv: {os.strerror(number)}$") as found:
        verb()
    assert found.value.exit_code == code
