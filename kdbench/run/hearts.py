"""Signs of life: a small file for each process that works on an output folder, written anew every few seconds.

Any machine that sees the folder can read them. A file whose process is gone, or that has not been written for long, is
what a killed process left behind. torch is not needed to read them.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.utils.files import atomic_write, content
from kdbench.utils.wording import printable

#: Seconds between two signs of life, after which one is taken for dead, and after which its file is taken away.
EVERY, DEAD, GONE = 5.0, 90.0, 7 * 86400.0
#: Seconds that another machine's clock may be ahead: a sign from later would keep a dead process alive for ever.
AHEAD = 86400.0
_SUFFIX = ".heart"


class Training(BaseModel):
    """A cell, or a teacher, under training.

    >>> Training(name="kd on resnet20:resnet8, seed 0", epoch=3, total=30).epoch
    3
    """

    name: str
    epoch: Annotated[int, Field(ge=0)]  # behind it, of the present stage
    total: Annotated[int, Field(ge=0)]
    stage: str = "train"


class Heart(BaseModel):
    """What a process says of itself.

    ``work`` is "run" of a whole command, and "group" of cells that are trained together; both may be one process's.

    >>> Heart(work="run", host="here", space="", pid=1, born="", since=0.0, beat=0.0, cells=3, ended=1).left
    2
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    work: Literal["run", "group"]
    host: str
    space: str  # machine and pid namespace since the last boot; "" where the system does not tell
    pid: int
    born: str  # when the process began, in the words of the system: a pid is used again
    since: float  # when this work began, seconds since 1970 by the writer's clock
    beat: float  # when this was written, likewise
    title: str = ""
    cells: Annotated[int, Field(ge=0)] = 0  # of a run: asked for and not there when it began
    ended: Annotated[int, Field(ge=0)] = 0  # of these, whatever became of them
    waiting: list[str] = []  # the others' files, see ``naming.cell_key``; none where they are too many to be told
    lanes: list[Training] = []
    speed: Annotated[float, Field(ge=0)] = 0.0  # images per second through all lanes; 0: none passed yet
    seconds_left: float | None = None

    @property
    def left(self) -> int:
        """Cells of a run that have not ended."""
        return max(0, self.cells - self.ended)


def folder(out: Path) -> Path:
    """Where the signs of life of an output folder lie.

    >>> folder(Path("results")).as_posix()
    'results/.running'
    """
    return out / ".running"


@contextmanager
def beating(out: Path, work: Literal["run", "group"], tell: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Signs of life as long as the block lasts. ``tell`` gives the changing fields, and is called in another thread.

    What cannot be written is not written: nobody's work ends for it.

    >>> with beating(Path("results"), "run", lambda: {"cells": 3}):
    ...     [(one.cells, is_dead(one)) for one in read(Path("results"))]
    [(3, False)]
    >>> read(Path("results"))
    []
    """
    host, pid, began = socket.gethostname(), os.getpid(), time.time()
    path = folder(out) / f"{printable(host, 60).replace('/', '-')}-{pid}-{secrets.token_hex(3)}{_SUFFIX}"
    me: dict[str, Any] = {"work": work, "host": host, "space": space(), "pid": pid, "born": born(pid), "since": began}
    end = threading.Event()
    new = [parent for parent in path.parents if not parent.exists()]  # a run that is refused leaves no empty folder

    def beat() -> None:
        with suppress(Exception):
            one = Heart(**(me | {"beat": time.time()} | tell()))  # who works elsewhere says where
            with atomic_write(path, "w") as file:
                file.write(one.model_dump_json())

    def beats() -> None:
        while not end.wait(EVERY):
            beat()

    beat()
    thread = threading.Thread(target=beats, name="kdbench signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(timeout=10.0)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: another process's is there, or what was computed
            for parent in dict.fromkeys((path.parent, *new)):
                parent.rmdir()


def read(out: Path) -> list[Heart]:
    """All signs of life in an output folder, whole runs first; what is none is left out.

    >>> read(Path("nowhere"))
    []
    """
    found = []
    for path in sorted(folder(out).glob(f"*{_SUFFIX}")):
        with suppress(OSError, ValidationError):
            found.append(Heart.model_validate_json(content(path)))
    return sorted(found, key=lambda one: (one.work != "run", one.host, one.pid, one.since))


def is_dead(one: Heart, now: float | None = None) -> bool:
    """Whether its process is gone: looked up where it is on this machine, else by the time of its last sign.

    >>> far = Heart(work="run", host="far", space="", pid=1, born="", since=0.0, beat=1000.0)
    >>> is_dead(far, now=1010.0), is_dead(far, now=2000.0)
    (False, True)
    >>> is_dead(far.model_copy(update={"beat": 1e300}), now=1010.0)
    True
    """
    if one.space and one.space == space():
        return is_gone(one.space, one.pid, one.born)
    silent = (time.time() if now is None else now) - one.beat
    return silent > DEAD or silent < -AHEAD


def sweep(out: Path) -> None:
    """Take away what processes of this machine that are gone left behind, and what is very old.

    >>> sweep(Path("results"))
    """
    for path in folder(out).glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValidationError):
            one = Heart.model_validate_json(content(path))
            here = one.space and one.space == space()
            if is_dead(one) if here else time.time() - one.beat > GONE:
                path.unlink(missing_ok=True)


def is_gone(where: str, pid: int, began: str) -> bool:
    """Whether a process that could be looked up is there no more; one of another machine is not known to be gone.

    >>> is_gone(space(), os.getpid(), born(os.getpid()))
    False
    """
    return bool(where) and where == space() and born(pid) != began


def space() -> str:
    """This machine and pid namespace since the last boot; "" where the system does not tell.

    >>> space() == space()
    True
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return ""


def born(pid: int) -> str:
    """When a process began, in the words of the system; "": there is none, or the system does not tell.

    >>> born(os.getpid()) == born(os.getpid())
    True
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return "" if state in ("Z", "X") else fields[18]
    except (OSError, ValueError, IndexError):
        return ""
