"""The run's end of a tracker: points are handed over without waiting, and what went wrong is heard once."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

import kdbench
from kdbench.tracking.tracker import Point
from kdbench.utils.files import trouble

#: Seconds that a tracker has at the end of a run to write what it was told; after an error or an interrupt.
PATIENCE, HURRY = 30.0, 5.0
#: Bytes that wait for a tracker that does not listen.
MOST = 64 * 2**20


class Channel:
    """A tracker in a process of its own. No function of it raises or waits, but ``close``, for a stated time.

    Args:
        name: of the tracker, as in ``known.KNOWN``.
        folder: where it writes.
        say: told the one sentence of a tracker that is broken.
        command: of its process; None: ``serve``.

    >>> said = []
    >>> csv = Channel("csv", Path("track"), said.append)
    >>> csv.send(Point("digits/kd", "kd on resnet20:resnet8, seed 0", 1, {"lr": 0.05}))
    >>> csv.close()
    >>> print(Path("track/digits/kd.csv").read_text().rstrip(), said)
    epoch,lr
    1,0.05 []
    """

    def __init__(self, name: str, folder: Path, say: Callable[[str], object], command: list[str] | None = None) -> None:
        self.name, self._say = name, say
        self._waiting, self._heard = bytearray(), b""
        self._process: subprocess.Popen[bytes] | None = None
        path = os.pathsep.join(filter(None, [str(Path(kdbench.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                command or [sys.executable, "-m", "kdbench.tracking.serve", name, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,  # Ctrl-C is for the run
            )
            for pipe in (self._into, self._out):
                os.set_blocking(pipe.fileno(), False)
        except (OSError, ValueError) as error:
            self._broken(trouble(error) if isinstance(error, OSError) else str(error))

    @property
    def open(self) -> bool:
        """Whether points still go there."""
        return self._process is not None

    @property
    def _into(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _out(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, point: Point) -> None:
        """Hand over a point; it waits here where the tracker does not listen yet."""
        if self._process is None:
            return
        self._waiting += json.dumps(asdict(point)).encode() + b"\n"
        if len(self._waiting) > MOST:
            self._broken("it has not taken what it was told for too long")
            return
        self.pump()

    def pump(self) -> None:
        """Move what can be moved now, and hear whether all is well."""
        if self._process is None:
            return
        try:
            while self._waiting:
                del self._waiting[: os.write(self._into.fileno(), self._waiting[: 2**16])]
        except BlockingIOError:
            pass
        except OSError:  # it has ended; what it said is heard below
            self._waiting.clear()
        self._hear()

    def _hear(self) -> None:
        try:
            while found := os.read(self._out.fileno(), 2**16):
                self._heard += found
        except BlockingIOError:
            return
        except OSError:
            pass
        assert self._process is not None  # its output has ended, which it does not before its last point
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        said = self._heard.decode("utf-8", "replace").strip()
        self._broken(said or f"its process has ended with code {self._process.returncode}")

    def _broken(self, why: str) -> None:
        self._end()
        self._say(f"tracking by {self.name} has ended: {why}; the run goes on without it")

    def _end(self) -> None:
        process, self._process = self._process, None
        self._waiting.clear()
        if process is None:
            return
        with suppress(OSError):
            process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)

    def close(self, *, hurry: bool = False) -> None:
        """Let it write what it was told, and end it; one sentence where that takes too long."""
        until = time.monotonic() + (HURRY if hurry else PATIENCE)
        try:
            while self._waiting and self._process is not None and time.monotonic() < until:
                select.select([self._out], [self._into], [], 0.2)
                self.pump()
            if self._process is None:
                return
            late = bool(self._waiting)
            if not late:
                self._into.close()
                late = not self._ends(until)
            heard = self._heard.decode("utf-8", "replace").strip()
            self._end()
            if heard:
                self._say(f"tracking by {self.name} has ended: {heard}")
            elif late:
                self._say(f"tracking by {self.name} did not end in time; its last points may be missing")
        finally:
            self._end()

    def _ends(self, until: float) -> bool:
        """Whether its output comes to its end by then."""
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._out], [], [], left)[0]:
                return False
            found = os.read(self._out.fileno(), 2**16)
            if not found:
                assert self._process is not None
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=max(0.1, until - time.monotonic()))
                return self._process.returncode is not None
            self._heard += found
        return False
