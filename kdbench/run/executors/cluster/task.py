"""A unit on a node: the function that Ray runs there, in the main thread of one of its processes."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from typing import Any

import torch

from kdbench.data import Dataset
from kdbench.run import grid
from kdbench.run.executors import strangers
from kdbench.run.executors.cluster import connect, parcel
from kdbench.run.executors.cluster.orders import Answer, Apart, Began, Came, Finished, Order, Unfit
from kdbench.run.executors.cluster.parcel import Roots
from kdbench.run.executors.examine import fault
from kdbench.run.executors.lend import read
from kdbench.run.executors.messages import Gathered, Raised
from kdbench.run.group import Work, run_group
from kdbench.run.outcome import CellEnded, Emit, Event, Note, one_line
from kdbench.utils import environment

#: Seconds for which steps are gathered before they are told, and those after which a driver that takes nothing is gone.
OFTEN, LONELY = 0.2, 60.0
#: Characters of a line that a plug-in prints.
LINE = 2000

#: What this process keeps from one unit to the next: the data set, and what its device is like.
_kept: dict[str, Any] = {}


def do(order: Order, post: Any) -> Answer:
    """Train a unit; ``post`` is the actor that hears of it."""
    node = connect.node_here()
    host = socket.gethostname()
    if order.parcel is None and not order.token.seen():
        return Apart(node, host)
    voice = _Voice(post, order.ticket)
    torch.set_num_threads(environment.threads())
    try:
        work = replace(order.work, room=order.rooms.get(node) if order.work.device == "cpu" else None)
        if order.parcel is not None:
            work = _unpacked(work, order.parcel)
        voice.say(Began(node, host, os.getpid(), environment.describe("cpu"), Roots.of(work)))
        strangers.load(tuple(plugin.here() for plugin in order.plugins))
        if sentence := _fault(order):
            return Unfit(node, host, sentence)
        with voice.printed():
            if order.parcel is None:
                done, files = run_group(work, voice.emit, _images(order, work)), {}
            else:
                done = run_group(work, _sending(work, voice), _images(order, work))
                files = parcel.made(work, [*done.records, *done.found], teacher=work.teacher_only)
        voice.end()
        return Finished(done, files, work)
    except strangers.Unlike as error:
        return Raised("", str(error))
    except Exception as error:
        return Raised.of(error)


def _fault(order: Order) -> str:
    device = order.work.device
    if device not in _kept:
        _kept[device] = fault(device, order.sharing)
    return str(_kept[device])


def _images(order: Order, work: Work) -> Dataset:
    """The data set: the driver's, or read here; once for all units of the process.

    Raises:
        ValueError: it is not here.
    """
    if _kept.get("data") != order.key:
        found: Dataset | None = None
        with suppress(Exception):  # what cannot be had from the driver is read here
            found = connect.got(order.images[0]) if order.images else None
        if found is None:
            found = read(work)
        _kept["images"], _kept["data"] = found, order.key
    images: Dataset = _kept["images"]
    return images


def _unpacked(work: Work, packed: parcel.Parcel) -> Work:
    """The work with the folders of this node, in which what it reads lies. What an earlier try has made stays."""
    here = parcel.node_roots(packed, work)
    work = parcel.moved(work, Roots.of(work), here)
    list(parcel.write(packed.files, here, over=True))
    for cell in work.cells:
        where = grid.files(work.records, cell)
        where.failed.unlink(missing_ok=True)
    return work


def _sending(work: Work, voice: _Voice) -> Emit:
    """Tells events; what a cell has become goes to the driver before it is told that the cell has ended."""

    def emit(event: Event) -> None:
        if isinstance(event, CellEnded) and event.status != "elsewhere":
            voice.say(Came(parcel.made(work, [event.cell], teacher=False)))
        voice.emit(event)

    return emit


class _Voice:
    """Says things to the driver, in their order, and notices when nobody listens any more."""

    def __init__(self, post: Any, ticket: int) -> None:
        self._post, self._ticket = post, ticket
        self.emit = Gathered(self.say, OFTEN)
        self._last: Any = None
        self._heard = time.monotonic()

    def say(self, message: object) -> None:
        """Raises: KeyboardInterrupt: the driver, or the cluster's head, is gone."""
        now = time.monotonic()
        if self._last is None:
            self._heard = now
        elif connect.is_there(self._last):
            with suppress(Exception):  # the actor is gone, and may come back
                self._heard = now - connect.got(self._last)
        if now - self._heard > LONELY:
            raise KeyboardInterrupt("nobody listens")
        self._last = self._post.put.remote(self._ticket, [message])

    def end(self) -> None:
        """Wait until all of it has been heard."""
        self.emit.flush()
        with suppress(Exception):  # the answer comes all the same
            connect.got(self._last, seconds=LONELY)

    @contextmanager
    def printed(self) -> Iterator[None]:
        """What plug-ins print is said as a sentence of the run."""
        lines = _Lines(lambda line: self.say(Note(line)))
        with redirect_stdout(lines), redirect_stderr(lines):
            yield
        lines.flush()


class _Lines(io.TextIOBase):
    """A stream that hands on line by line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._begun = say, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of what is written, which nobody encodes."""
        return "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Whole lines are said."""
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > LINE:
            lines, self._begun = [*lines, self._begun], ""
        for line in lines:
            if said := one_line(line[:LINE]).strip():
                self._say(said)
        return len(text)

    def flush(self) -> None:
        """A line that was begun is said at the end, and not before."""

    def close(self) -> None:
        """It stays open: who closes a stream that all share is a plug-in."""
