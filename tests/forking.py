"""Work in a child that may be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def forked(work: Callable[[], int]) -> int:
    """Begin ``work`` in a forked child, whose exit code it gives (70 where it raises); returns the child's id."""
    pid = os.fork()
    if pid == 0:  # nothing of pytest may run in here
        code = 70
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            code = work()
        finally:
            os._exit(code)
    return pid
