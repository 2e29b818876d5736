"""How many cores of the machine this process may use: physical ones, within its affinity and its container's quota."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CPUS, _CGROUP, _PROC = Path("/sys/devices/system/cpu"), Path("/sys/fs/cgroup"), Path("/proc")


def usable() -> int:
    """Physical cores, 1 at least. Two threads of one core count once, for they share its arithmetic.

    >>> 1 <= usable() <= (os.cpu_count() or 1)
    True
    """
    cores = len({_core(cpu) for cpu in _allowed()})
    quota = _quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _allowed() -> set[int]:
    """Logical processors that the process may run on."""
    with suppress(AttributeError, OSError):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core(cpu: int) -> tuple[str, ...]:
    """What names the physical core of a logical processor: its socket and its number there, where the system tells."""
    home = _CPUS / f"cpu{cpu}" / "topology"
    with suppress(OSError):
        return tuple((home / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    return (str(cpu),)


def _quota() -> float | None:
    """Processors that the container may keep busy, in either version of cgroups; None: as many as there are."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / "self/cgroup").read_text().splitlines()
        path = _CGROUP / next(line for line in lines if line.startswith("0::")).removeprefix("0::").lstrip("/")
        for folder in (path, *path.parents):
            if folder.is_relative_to(_CGROUP) and (folder / "cpu.max").exists():
                limit, period = (folder / "cpu.max").read_text().split()
                if limit != "max":
                    found.append(int(limit) / int(period))
    with suppress(OSError, ValueError):
        old = _CGROUP / "cpu"
        most, each = (int((old / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if most > 0:
            found.append(most / each)
    return min(found, default=None)
