"""Main memory that processes of this user on this machine have planned for and not taken yet.

Two commands that begin at once would both find all of it free. Each says what it is going to take, in a small file of
the user's cache folder; what it has taken by now the system knows.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.run import hearts, speeds
from kdbench.utils import memory
from kdbench.utils.files import atomic_write, content
from kdbench.utils.turns import turn

_SUFFIX = ".promise"
#: Seconds that are waited for another process which looks at the memory at this moment.
PATIENCE = 5.0


class Promise(BaseModel):
    """What one process will hold in main memory.

    >>> Promise(space="", pid=1, born="", group="/", total=10**9).total
    1000000000
    """

    model_config = ConfigDict(extra="ignore")

    space: str  # as of ``hearts.Heart``, like the next two
    pid: int
    born: str
    group: str  # its control group; "" where the system does not tell
    total: int  # bytes, what it has already included

    def open(self) -> int:
        """Bytes of it that are not taken yet; 0 where the process is gone or the system does not tell."""
        now = None if hearts.is_gone(self.space, self.pid, self.born) else memory.held(self.pid)
        return 0 if now is None else max(0, self.total - now)


def folder() -> Path:
    """Where the files lie: in the user's cache folder, whatever output folders the commands have.

    >>> folder() == speeds.folder() / "memory"
    True
    """
    return speeds.folder() / "memory"


def others(mine: Path | None = None) -> memory.Promised:
    """What others have planned for and not taken, of the machine and of this process's control group.

    Files of processes that are gone are taken away. ``mine`` is left out.

    >>> others().machine >= others().group >= 0
    True
    """
    machine = group = 0
    here, where = memory.control_group(), hearts.space()
    for path in folder().glob(f"*{_SUFFIX}"):
        if path == mine:
            continue
        with suppress(OSError, ValidationError):
            one = Promise.model_validate_json(content(path))
            if not one.space or one.space != where:
                continue
            if hearts.is_gone(one.space, one.pid, one.born):
                path.unlink(missing_ok=True)
                continue
            machine += (left := one.open())
            group += left if one.group == here else 0
    return memory.Promised(machine, group)


@dataclass
class Planning:
    """What this process says of itself."""

    path: Path = field(default_factory=lambda: folder() / f"{os.getpid()}-{secrets.token_hex(3)}{_SUFFIX}")

    @contextmanager
    def looking(self) -> Iterator[memory.Promised]:
        """What others have planned; nobody else looks while the block lasts, in which ``take`` is called."""
        with turn(folder() / "lock", patience=PATIENCE):
            yield others(self.path)

    def take(self, need: int) -> None:
        """So many bytes will be taken beyond what this process has."""
        pid, now = os.getpid(), memory.held(os.getpid())
        where = hearts.space()
        if now is None or not where:
            return
        one = Promise(
            space=where, pid=pid, born=hearts.born(pid), group=memory.control_group(), total=now + max(0, need)
        )
        with suppress(OSError), atomic_write(self.path, "w") as file:
            file.write(one.model_dump_json())

    def over(self) -> None:
        """Nothing more will be taken."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextmanager
def planning() -> Iterator[Planning]:
    """Plans of this process, which end with the block.

    >>> with planning() as mine:
    ...     mine.take(10**6)
    >>> mine.path.exists()
    False
    """
    mine = Planning()
    try:
        yield mine
    finally:
        mine.over()
