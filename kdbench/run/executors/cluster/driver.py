"""The process that speaks with Ray, in the run's place: what becomes of the cluster ends it, and not the run.

It takes what there is to do from the pipe that it was started with, and says there what comes of it. When the other end
is gone, it ends as at Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType

from kdbench.run.executors import strangers
from kdbench.run.executors.cluster import connect
from kdbench.run.executors.cluster.crew import PATIENCE, OnRay
from kdbench.run.executors.lend import borrow, read
from kdbench.run.executors.messages import Raised
from kdbench.run.executors.strangers import Stranger
from kdbench.run.executors.unit import Unit
from kdbench.run.outcome import Done


@dataclass(frozen=True)
class Asked:
    """All that there is to do."""

    units: tuple[Unit, ...]
    strangers: tuple[Stranger, ...]
    images: bytes | None  # see ``lend``; None: to be read anew
    address: str | None
    workers: int
    device: str


@dataclass(frozen=True)
class Came:
    """A unit has ended."""

    unit: Unit
    done: Done


@dataclass(frozen=True)
class Over:
    """All has ended."""


def serve(pipe: Connection) -> None:
    """Do what is asked."""
    try:
        asked: Asked = pipe.recv()
        threading.Thread(target=_listen, args=(pipe,), daemon=True, name="kdbench driver").start()
        strangers.load(asked.strangers)
        images = borrow(asked.images) if asked.images is not None else read(asked.units[0].work)
        for unit, done in OnRay(images, asked.address, asked.workers, asked.device).run(asked.units, pipe.send):
            pipe.send(Came(unit, done))
        pipe.send(Over())
    except KeyboardInterrupt:
        return
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        with suppress(OSError):
            pipe.send(Raised("", str(error)) if isinstance(error, strangers.Unlike) else Raised.of(error))


def _listen(pipe: Connection) -> None:
    """Notice that nobody is there any more."""
    with suppress(EOFError, OSError):
        while True:
            pipe.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * PATIENCE)
    os._exit(1)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is the end in order
    raise KeyboardInterrupt


def main(verb: str, what: str) -> None:
    """``drive HANDLE``, or ``nodes ADDRESS``."""
    signal.signal(signal.SIGTERM, _raise)
    if verb == "nodes":
        connect.tell_nodes(what)
    else:
        with suppress(KeyboardInterrupt):
            serve(Connection(int(what)))
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
