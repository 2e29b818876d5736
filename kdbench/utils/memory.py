"""This process's main memory: what it has, what it can still have, and the most that a piece of work takes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
#: Names of malloc.h, for ``mallopt``.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


class Promised(NamedTuple):
    """Bytes that other processes are going to take: of the machine, and those of them in this container.

    >>> Promised().machine
    0
    """

    machine: int = 0
    group: int = 0


#: Nobody else plans anything.
NONE = Promised()


def free(promised: Promised = NONE) -> int | None:
    """Bytes that can still be had, by the machine, the container and the process's own limits; None: not told.

    >>> found = free()
    >>> found is None or found > 0
    True
    """
    told = [(_of_machine(), promised.machine), (_of_container(), promised.group)]
    told += [(one, 0) for one in _of_process()]
    return min((max(0, one - others) for one, others in told if one is not None), default=None)


def control_group() -> str:
    """The control groups of this process, which tell containers apart; "" where the system does not tell.

    >>> control_group() == control_group()
    True
    """
    with suppress(OSError, ValueError):
        return (_PROC / "self/cgroup").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def resident() -> int | None:
    """Bytes of this process that lie in main memory; None where the system does not tell.

    >>> resident() is None or resident() > 1_000_000
    True
    """
    return _status("VmRSS")


def held(process: int) -> int | None:
    """Bytes of a process that lie in main memory and are no file's; None: it has ended, or the system does not tell.

    >>> held(os.getpid()) is None or held(os.getpid()) > 1_000_000
    True
    """
    status = _PROC / str(process) / "status"
    parts = [_kilobytes(status, name) for name in ("RssAnon", "RssShmem")]
    return None if None in parts else sum(part or 0 for part in parts)


def highest(work: Callable[[], object]) -> int | None:
    """Do ``work``; the most bytes of main memory that the process had in it beyond what it had before.

    What was freed before, and is kept by the allocator, is given back to the system first. None where the
    system does not tell.

    >>> most = highest(lambda: bytes(range(256)) * 100_000)
    >>> most is None or most > 10_000_000
    True
    """
    trim()
    before = resident()
    try:
        (_PROC / "self/clear_refs").write_text("5")  # the highest so far begins anew
    except OSError:
        before = None
    work()
    most = _status("VmHWM")
    return None if before is None or most is None else max(0, most - before)


@cache
def keep_freed() -> bool:
    """Let the C library keep what this process frees, from now on; whether it can (glibc).

    Left to itself it gives the memory of a step's large tensors back to the system, and the next step pays for every
    page again. What is kept goes back by ``trim``. It changes no number, and cannot be undone in the process.

    >>> keep_freed() in (True, False)
    True
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_TRIM_THRESHOLD, 2**31 - 1):
            # Blocks below the threshold come from the heap; some releases take 32 MiB at most.
            return bool(mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25))
    return False


def trim() -> None:
    """Give memory that is free in the C library's heap back to the system, where it can.

    >>> trim()  # does no harm where there is nothing to give back
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    return _kilobytes(_PROC / "self/status", name)


def _of_machine() -> int | None:
    found = _kilobytes(_PROC / "meminfo", "MemAvailable")
    if found is not None:
        return found
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    """What the limits of a container leave, in either version of cgroups; files in its cache can go."""
    old = _CGROUP / "memory"
    with suppress(OSError, ValueError, StopIteration):
        most, used = (int((old / f"memory.{name}_in_bytes").read_text()) for name in ("limit", "usage"))
        return most - used + _cache(old, "total_inactive_file")
    with suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / "self/cgroup").read_text().splitlines()
        path = _CGROUP / next(line for line in lines if line.startswith("0::")).removeprefix("0::").lstrip("/")
        left = []
        for folder in (path, *path.parents):
            if folder.is_relative_to(_CGROUP) and (folder / "memory.max").exists():
                limit = (folder / "memory.max").read_text().strip()
                if limit != "max":
                    used = int((folder / "memory.current").read_text()) - _cache(folder, "inactive_file")
                    left.append(int(limit) - used)
        return min(left, default=None)
    return None


def _cache(folder: Path, name: str) -> int:
    lines = (folder / "memory.stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def _of_process() -> list[int]:
    """What ``ulimit`` leaves of address space and of data."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    left = []
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, used = resource.getrlimit(kind)[0], _status(name)
        if most != resource.RLIM_INFINITY and used is not None:
            left.append(most - used)
    return left


def _kilobytes(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
