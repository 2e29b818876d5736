"""Units in processes of this machine: one thread each on the CPU, one device each on CUDA.

A worker is a process of its own, started afresh, that imports kdbench and the user's plug-ins; what the user's script
does beside that is not repeated in it. What it prints is said as a sentence of the run.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from kdbench.data import Dataset
from kdbench.run import promised
from kdbench.run.executors import strangers
from kdbench.run.executors.board import Board, Ended
from kdbench.run.executors.lend import Lent
from kdbench.run.executors.merge import Merged
from kdbench.run.executors.messages import Begin, Interrupted, Raised, Ready, Unfit
from kdbench.run.executors.slots import Slot, strongest
from kdbench.run.executors.unit import Unit
from kdbench.run.outcome import Done, Emit, Event, Note, one_line
from kdbench.utils import environment
from kdbench.utils.children import end_group

#: Seconds that a worker has to say that it is ready (libraries, a device that hangs), and to end when it is asked to.
START, PATIENCE = 180.0, 60.0
#: Workers of one place that may be lost before they are ready.
STARTS = 3
#: Bytes of a line that a worker prints.
LINE = 2000
#: What a worker's Python is told; the first import is kdbench's, from where this process has it.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from kdbench.run.executors.worker import main;"
    " main(int(sys.argv[1]))"
)


class Lost(RuntimeError):
    """An error that a worker did not foresee.

    >>> raise Lost("KeyError: 'lr'")
    Traceback (most recent call last):
    kdbench.run.executors.processes.Lost: KeyError: 'lr'
    """


class Processes:
    """The executor of one machine.

    Args:
        images: of all units; they lie in memory once.
        places: of the workers.

    >>> from kdbench.data import load
    >>> list(Processes(load("digits"), [Slot(0, "cpu")]).run([], print))
    []
    """

    def __init__(self, images: Dataset, places: Sequence[Slot]) -> None:
        self.images, self.places = images, list(places)

    def run(self, units: Sequence[Unit], emit: Emit) -> Generator[Ended, None, None]:
        """See ``Executor``."""
        if not units:
            return
        lent = Lent(self.images)
        crew = _Crew(self.places, lent.facts, Merged(emit), emit)
        try:
            yield from crew.run(Board(units, crew.say))
        finally:
            crew.end()
            lent.close()


class _Worker:
    """A worker process as this one sees it."""

    def __init__(self, slot: Slot, begin: Begin) -> None:
        self.slot, self.ready, self.unfit = slot, False, ""
        self.unit: Unit | None = None  # that it does
        self.started = time.monotonic()
        self.pipe, theirs = Pipe()
        out, printed = os.pipe()
        self.out = out
        environ = os.environ | {"PYTHONUNBUFFERED": "1"}
        environ |= slot.variables(os.environ.get("CUDA_VISIBLE_DEVICES"))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=environ,
                process_group=0,  # Ctrl-C at a terminal is this process's to hear, and to pass on
            )
        finally:
            theirs.close()
            os.close(printed)
        os.set_blocking(out, False)
        self._line, self.mute = b"", False  # mute: it has closed its output
        self.last = ""  # that it printed
        self.send(begin)

    def send(self, message: object) -> None:
        with suppress(OSError):  # it is gone, which its pipe says
            self.pipe.send(message)

    def lines(self, *, whole: bool = False) -> Iterator[str]:
        """What it has printed since; ``whole``: an unfinished line, too."""
        with suppress(OSError):  # nothing more for now
            while data := os.read(self.out, 65536):
                self._line += data
            self.mute = True
        *lines, self._line = self._line.split(b"\n")
        if whole or len(self._line) > LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            if text := one_line(line[:LINE].decode(errors="replace")).strip():
                self.last = text
                yield text

    def went(self) -> str:
        """How it ended, for a sentence."""
        code = self.process.poll()
        if code is not None and code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                return f"killed by {name}" + (", which the system sends when memory runs out" if code == -9 else "")
        said = f", its last words were: {self.last}" if self.last else ""
        return f"it ended with code {code}{said}"

    def close(self) -> None:
        self.pipe.close()
        os.close(self.out)


class _Crew:
    def __init__(self, places: Sequence[Slot], images: bytes | None, merged: Merged, emit: Emit) -> None:
        self.places, self.merged, self.emit = list(places), merged, emit
        self.images = images
        self.workers: dict[int, _Worker] = {}  # by the number of their places
        self.failed: dict[int, int] = {}  # starts of a place that came to nothing
        self.selector = selectors.DefaultSelector()
        free = environment.free_memory(promised=promised.others())
        self.room = None if free is None else free // max(1, len(places))
        self.strangers = strangers.known()

    def say(self, event: Event) -> None:
        """An event that is nobody's of the workers."""
        self.emit(event)

    def run(self, board: Board) -> Iterator[Ended]:
        """Until every unit has ended."""
        for slot in self.places:
            self._start(slot)
        while board.more:
            self._give(board)
            if not self.workers:
                raise ValueError(f"no worker is left for {board.abandoned()}; --workers 1 --executor here does without")
            for worker in self._heard():
                yield from self._hear(worker, board)

    def _start(self, slot: Slot) -> None:
        worker = _Worker(slot, Begin(slot.seen, self.strangers, self.images, slot.sharing))
        self.workers[slot.number] = worker
        self.selector.register(worker.pipe, selectors.EVENT_READ, worker)
        self.selector.register(worker.out, selectors.EVENT_READ, worker)

    def _give(self, board: Board) -> None:
        """Work for those that have none, the weightiest for the strongest."""
        while idle := [one.slot for one in self.workers.values() if one.ready and one.unit is None]:
            waiting = sum(one.unit is None for one in self.workers.values())
            unit = board.take(idle=waiting)
            if unit is None:
                return
            worker = self.workers[strongest(idle).number]
            worker.unit = unit
            room = self.room if worker.slot.device == "cpu" else None
            worker.send(replace(unit.work, device=worker.slot.seen, room=room))

    def _heard(self) -> list[_Worker]:
        """Workers that have said something, or are gone."""
        found = {key.data.slot.number for key, _ in self.selector.select(timeout=0.5)}
        # A process that a worker has started may hold its pipe open, so that the end of it is not heard there.
        found |= {number for number, worker in self.workers.items() if worker.process.poll() is not None}
        now = time.monotonic()
        for worker in self.workers.values():
            if not worker.ready and now - worker.started > START:
                worker.unfit = f"it did not start within {START:.0f} s"
                worker.process.kill()
        return [self.workers[number] for number in sorted(found)]

    def _hear(self, worker: _Worker, board: Board) -> Iterator[Ended]:
        self._printed(worker)
        while True:
            ended = worker.process.poll() is not None  # asked first: by then all that it has said lies in the pipe
            try:
                message = worker.pipe.recv() if worker.pipe.poll() else None
            except Exception:  # the end of the pipe, or a message that was cut
                message, ended = None, True
            if message is None:
                if ended:
                    yield from self._gone(worker, board)
                return
            match message:
                case Ready():
                    worker.ready = True
                case Unfit(sentence, device):
                    if not device:
                        raise ValueError(sentence)
                    worker.unfit = sentence
                case Interrupted():
                    pass  # the end of its pipe follows
                case Raised(kind, sentence):
                    if not kind:
                        raise ValueError(sentence)
                    raise Lost(f"{kind}: {sentence}")
                case Done():
                    unit, worker.unit = worker.unit, None
                    assert unit is not None
                    self.merged.over(unit.number)
                    yield from board.ended(unit, message)
                    return  # whoever is idle is given work first
                case _:
                    assert worker.unit is not None
                    self.merged.hear(worker.slot.number, worker.unit.number, message)

    def _printed(self, worker: _Worker, *, whole: bool = False) -> None:
        for line in worker.lines(whole=whole):
            if worker.ready:
                self.emit(Note(line))
        if worker.mute:
            self._deaf(worker.out)

    def _gone(self, worker: _Worker, board: Board) -> Iterator[Ended]:
        """A worker has ended: its unit goes back, and another takes its place."""
        slot = worker.slot
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=10)
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()
        end_group(worker.process.pid)
        self._printed(worker, whole=True)
        self._forget(worker)
        why, unit = worker.went(), worker.unit
        if unit is not None:
            ended = self.merged.lost(unit.number)
            self.emit(Note(f"a worker was lost ({why}); what it trained goes on from its last full epoch"))
            if worker.process.returncode == -signal.SIGKILL:  # the next one trains fewer lanes at once
                unit = replace(unit, work=replace(unit.work, killed=True))
            yield from board.lost(unit, ended, why)
        if not worker.ready:
            self.failed[slot.number] = self.failed.get(slot.number, 0) + 1
            if worker.unfit:
                self.emit(Note(f"left out: {slot.device}: {worker.unfit}"))
                return
            if self.failed[slot.number] >= STARTS:
                raise ValueError(f"worker processes cannot be started: {why}; --workers 1 --executor here does without")
        if board.more:
            self._start(slot)

    def _forget(self, worker: _Worker) -> None:
        del self.workers[worker.slot.number]
        self._deaf(worker.pipe)
        self._deaf(worker.out)
        worker.close()

    def _deaf(self, to: Connection | int) -> None:
        """Listen no more."""
        with suppress(KeyError):
            self.selector.unregister(to)

    def end(self) -> None:
        """Ask all to end, and wait until they have written what is to be kept; a second Ctrl-C does not wait."""
        until = time.monotonic() + PATIENCE
        try:
            for worker in self.workers.values():
                worker.process.terminate()
            while any(worker.process.poll() is None for worker in self.workers.values()):
                if time.monotonic() > until:
                    break
                self._drain()
        finally:
            for worker in list(self.workers.values()):
                if worker.process.poll() is None:
                    worker.process.kill()
                worker.process.wait()
                end_group(worker.process.pid)
                self._forget(worker)
            self.selector.close()

    def _drain(self) -> None:
        """Read what they still say, so that none waits to be heard."""
        heard = self.selector.select(timeout=0.1)
        for key, _ in heard:
            worker: _Worker = key.data
            try:
                if isinstance(key.fileobj, Connection):
                    worker.pipe.recv_bytes()
                else:
                    list(worker.lines())
            except (EOFError, OSError):
                self._deaf(worker.pipe)
            if worker.mute:
                self._deaf(worker.out)
        if not heard:
            time.sleep(0.01)
