"""Processes that a stranger's code has started beside us: they end with us, and hear what is theirs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


def end_children() -> None:
    """End every process of ``multiprocessing`` that this one has started; none is waited for.

    >>> end_children()
    """
    children = sys.modules.get("multiprocessing")
    for child in children.active_children() if children is not None else ():
        child.kill()  # forked from us, it would hear another signal as we do


def end_group(leader: int) -> None:
    """End what is left of a process group whose leader, a child of ours, has ended: whatever it had started.

    >>> import subprocess
    >>> child = subprocess.Popen("sleep 60 & exit", shell=True, process_group=0)
    >>> child.wait()
    0
    >>> end_group(child.pid)
    """
    with suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(leader, signal.SIGKILL)


def own(handler: Handler) -> Handler:
    """A signal's handler for this process alone: a child that is forked from it ends by the signal, as by default.

    >>> own(lambda number, frame: number)(15, None)
    15
    """
    home = os.getpid()

    def heard(number: int, frame: FrameType | None) -> Any:
        if os.getpid() == home:
            return handler(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return None

    return heard
