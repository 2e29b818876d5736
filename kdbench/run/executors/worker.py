"""A worker process: takes work from the pipe that it was started with, and says there what comes of it.

It ends when the other end of the pipe is gone, whatever has become of the process there: what it trains then is kept
up to the last full epoch, as at Ctrl-C.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType

import torch

from kdbench.data import Dataset
from kdbench.run.executors import strangers
from kdbench.run.executors.examine import fault
from kdbench.run.executors.lend import borrow, read
from kdbench.run.executors.messages import Begin, Gathered, Interrupted, Raised, Ready, Unfit
from kdbench.run.group import Work, run_group
from kdbench.utils import environment
from kdbench.utils.children import end_children, own

#: Seconds for which steps are gathered before they are told, and those that a lonely worker has to end in.
OFTEN, LONELY = 0.1, 60.0

Heard = SimpleQueue[object]


def serve(pipe: Connection) -> int:
    """Work until the pipe is closed; returns the exit status."""
    heard: Heard = SimpleQueue()
    signal.signal(signal.SIGTERM, own(_raise))
    os.register_at_fork(after_in_child=pipe.close)  # what a method forks does not hold it open when we are gone
    threading.Thread(target=_listen, args=(pipe, heard), daemon=True, name="kdbench worker").start()
    try:
        begin = heard.get()
        if isinstance(begin, Begin):
            _Worker(pipe, begin).run(heard)
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt, OSError):
            pipe.send(Interrupted())
        return 130
    return 0


def _listen(pipe: Connection, heard: Heard) -> None:
    """Hear what there is to do, while the main thread does it."""
    with suppress(EOFError, OSError):
        while True:
            heard.put(pipe.recv())
    heard.put(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LONELY)
    end_children()
    os._exit(1)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Worker:
    def __init__(self, pipe: Connection, begin: Begin) -> None:
        self.pipe, self.begin = pipe, begin
        self._emit = Gathered(self._say, OFTEN)

    def run(self, heard: Heard) -> None:
        """Say that it is ready, and do unit after unit."""
        torch.set_num_threads(environment.threads())
        try:
            strangers.load(self.begin.strangers)
        except strangers.Unlike as error:
            self._say(Unfit(str(error), device=False))
            return
        if sentence := fault(self.begin.device, self.begin.sharing):
            self._say(Unfit(sentence, device=True))
            return
        images: Dataset | None = None
        if self.begin.images is not None:
            with suppress(OSError, ValueError, pickle.UnpicklingError):  # else they are read anew
                images = borrow(self.begin.images)
        self._say(Ready())
        while isinstance(asked := heard.get(), Work):
            try:
                images = images or read(asked)
                done = run_group(asked, self._emit, images)
                self._emit.flush()
                pickle.dumps(done)
            except Exception as error:
                self._say(Raised.of(error))
            else:
                self._say(done)

    def _say(self, message: object) -> None:
        """Who cannot hear it any more is gone."""
        try:
            self.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise KeyboardInterrupt from error


def main(handle: int) -> None:
    """The whole life of a worker process; ``handle`` is its end of the pipe."""
    code = serve(Connection(handle))
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    end_children()
    os._exit(code)  # threads that a method has left behind do not hold up the end
