"""The executor of a cluster as a run sees it: a process that speaks with Ray (``driver``), and the end of its pipe."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from kdbench.run.executors import strangers
from kdbench.run.executors.board import Ended
from kdbench.run.executors.cluster.connect import CHILD
from kdbench.run.executors.cluster.crew import PATIENCE
from kdbench.run.executors.cluster.driver import Asked, Came, Over
from kdbench.run.executors.cluster.wanted import Wanted
from kdbench.run.executors.lend import Lent
from kdbench.run.executors.messages import Raised
from kdbench.run.executors.processes import Lost
from kdbench.run.executors.unit import Unit
from kdbench.run.outcome import Emit, Stop

#: Seconds that the process has beyond its tasks' own, to take down a cluster.
DOWN = 30.0


class Driven(Wanted):
    """The executor of a cluster."""

    def run(self, units: Sequence[Unit], emit: Emit) -> Generator[Ended, None, None]:
        """See ``Executor``."""
        if not units:
            return
        with closing(Lent(self.images)) as lent, _driver() as (process, pipe):
            what = Asked(tuple(units), strangers.known(), lent.facts, self.address, self.workers, self.device)
            with suppress(BrokenPipeError, ConnectionResetError):
                pipe.send(what)
            try:
                yield from self._hear(pipe, emit)
            finally:
                _end(process, pipe)

    def _hear(self, pipe: Connection, emit: Emit) -> Iterator[Ended]:
        while True:
            try:
                message: Any = pipe.recv()
            except (EOFError, OSError) as error:
                where = f"the Ray cluster at {self.address}" if self.address else "the Ray of this machine"
                raise Stop(f"{where} is gone; what was finished is kept, repeat the command") from error
            match message:
                case Came(unit, done):
                    yield unit, done
                case Over():
                    return
                case Raised("", sentence):
                    raise ValueError(sentence)
                case Raised("Stop", sentence):
                    raise Stop(sentence)
                case Raised(kind, sentence):
                    raise Lost(f"{kind}: {sentence}")
                case event:
                    emit(event)


@contextmanager
def _driver() -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """The process, and this end of its pipe. What it and Ray print is in Ray's own files, or nobody's."""
    mine, theirs = Pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, "drive", json.dumps(sys.path), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C at a terminal is this process's to hear, and to pass on
        )
    finally:
        theirs.close()
    try:
        yield process, mine
    finally:
        mine.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    """Ask it to end, and hear what it still says until it has; a second Ctrl-C does not wait."""
    process.terminate()
    until = time.monotonic() + PATIENCE + DOWN
    with suppress(EOFError, OSError):
        while time.monotonic() < until:
            if pipe.poll(0.2):
                pipe.recv()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=max(1.0, until - time.monotonic()))
