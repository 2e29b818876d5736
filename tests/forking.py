"""Work in a child that may be killed, or that forgets what it has imported: cheaper than another Python."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path


def forked(work: Callable[[], int]) -> int:
    """Begin ``work`` in a forked child, whose exit code it gives (70 where it raises); returns the child's id."""
    with warnings.catch_warnings():  # of forks beside threads, by newer Pythons: those of pytest-xdist only wait
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:  # nothing of pytest may run in here
        code = 70
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            code = work()
        finally:
            os._exit(code)
    return pid


def ended(work: Callable[[], int]) -> int:
    """The exit code of ``forked`` work; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


def afresh(code: str, said: Path) -> list[str]:
    """Lines that a program prints where nothing of kdbench has been imported; ``said`` is a file for them."""

    def work() -> int:
        for name in list(sys.modules):
            if name.split(".")[0] in ("kdbench", "methods"):
                del sys.modules[name]
        with said.open("w") as sys.stdout:
            exec(code, {"__name__": "__main__"})
        return 0

    assert ended(work) == 0, said.read_text()
    return said.read_text().splitlines()
