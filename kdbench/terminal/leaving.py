"""The end of the process: what a stranger's method has left running keeps nobody waiting for an exit code."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from concurrent.futures import thread as pools

from kdbench.utils.children import end_children

#: Seconds that threads which are not daemons have to end by themselves.
GRACE = 5.0


def unhindered(code: int) -> int:
    """The exit code to end with; where something would hold up the end, the process ends in here.

    Python waits for every thread and every process of ``multiprocessing`` that is no daemon, however long they last,
    so that a run would stand still after its last sentence; daemons it would ask to end, which those that were forked
    hear as we do. All of them are ended; of threads that last, a sentence says so and the process ends without them.
    """
    end_children()
    until = time.monotonic() + GRACE
    for thread in _left():
        thread.join(max(0.0, until - time.monotonic()))
    if names := [thread.name for thread in _left()]:
        print(f"ended without a thread that a plug-in has left running ({names[0]!r:.80})", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        getattr(atexit, "_run_exitfuncs", lambda: None)()
        os._exit(code)
    return code


def _left() -> list[threading.Thread]:
    ours = (threading.main_thread(), threading.current_thread())
    return [one for one in threading.enumerate() if one not in ours and not one.daemon and not _waits(one)]


def _waits(thread: threading.Thread) -> bool:
    """Whether it is a worker of a thread pool that waits for work: Python's end sends it home at once.

    ``torch.compile`` leaves such a pool behind.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    work = getattr(pools, "_worker", None)  # not of Python's promises; without it the pool is named
    return frame is not None and work is not None and frame.f_code is work.__code__
