"""A check and what became of it; checks are made in order, and end at the first that fails."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from kdbench.engine.errors import said


class NotHere(Exception):
    """Why a check cannot be made on this device."""


@dataclass(frozen=True)
class Check:
    """One check.

    ``work`` gets the device and gives what it found; it raises AssertionError with that where it is wrong.
    """

    number: int
    what: str
    expected: str
    work: Callable[[torch.device], str]
    cuda: bool = False  # whether only a CUDA device can tell


@dataclass(frozen=True)
class Row:
    """What became of one; the verdict is ok, FAIL, "needs CUDA" or "not tried".

    >>> row = Row(1, "a product", "ok", "12", "12", 0.01)
    >>> f"{row.number} {row.what}: {row.verdict}"
    '1 a product: ok'
    """

    number: int
    what: str
    verdict: str
    expected: str
    found: str
    seconds: float


def rows(checks: Sequence[Check], device: torch.device) -> Iterator[Row]:
    """Each check's row, as it is made; after a FAIL the others are not tried.

    Whatever torch warns of is an error, as in kdbench's own tests.

    >>> checks = [Check(1, "a sum", "2", lambda device: demand(1 + 1 == 3, "2, not 3")), Check(2, "more", "", str)]
    >>> [(row.what, row.verdict, row.found) for row in rows(checks, torch.device("cpu"))]
    [('a sum', 'FAIL', '2, not 3'), ('more', 'not tried', 'an earlier check failed')]
    """
    failed = False
    for check in checks:
        started = time.perf_counter()
        verdict, found = "not tried", "an earlier check failed"
        if not failed and check.cuda and device.type != "cuda":
            verdict, found = "needs CUDA", "not tried"
        elif not failed:
            verdict, found = _made(check, device)
            failed = verdict == "FAIL"
        seconds = time.perf_counter() - started
        yield Row(check.number, check.what, verdict, check.expected, found, seconds)


def _made(check: Check, device: torch.device) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = check.work(device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    except NotHere as error:
        return "needs CUDA", str(error)
    except AssertionError as error:
        return "FAIL", str(error) or "not so"
    except Exception as error:  # whatever a driver or torch raises is what was found
        return "FAIL", said(error)
    return "ok", found


def demand(holds: bool, found: str) -> str:
    """``found``, where it is right.

    Raises:
        AssertionError: it is not.
    """
    if not holds:
        raise AssertionError(found)
    return found
