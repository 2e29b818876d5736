"""Disks that are full: files that take no more than so many bytes in all, the kernel's limit, a real small disk."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import mmap
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Budget:
    """Bytes that may be written below a folder, in all; a write that does not fit fails as on a full disk.

    It is spent in a child and can be read by its parent. Files that are cut or taken away give nothing back.
    """

    def __init__(self, below: Path, size: float) -> None:
        self._root, self._size, self._shared = os.fspath(below), size, mmap.mmap(-1, 8)

    @property
    def spent(self) -> int:
        """Bytes that were asked for so far."""
        return int.from_bytes(self._shared[:], "little")

    def spend(self, size: int) -> None:
        """Raises: OSError: they do not fit."""
        self._shared[:] = (self.spent + size).to_bytes(8, "little")
        if self.spent > self._size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def before(self) -> None:
        """Begin, in the child."""
        real, opened, write, pwrite = io.open, os.open, os.write, os.pwrite
        ours: set[int] = set()

        def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **words: Any) -> Any:
            if set(mode) <= set("rbtU") or not self._within(file):
                return real(file, mode, buffering, *args, **words)
            raw = _Raw(file, mode.replace("b", "").replace("t", ""), self)
            whole: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return whole if "b" in mode else io.TextIOWrapper(whole, *args[:1], **_text(words))

        def os_open(path: Any, flags: int, *args: Any, **words: Any) -> int:
            made = opened(path, flags, *args, **words)
            (ours.add if flags & (os.O_WRONLY | os.O_RDWR) and self._within(path) else ours.discard)(made)
            return made

        def os_write(file: int, data: Any) -> int:
            if file in ours:
                self.spend(len(data))
            return write(file, data)

        def os_pwrite(file: int, data: Any, at: int) -> int:
            if file in ours:
                self.spend(len(data))
            return pwrite(file, data, at)

        builtins.open = io.open = open_
        os.open, os.write, os.pwrite = os_open, os_write, os_pwrite

    def _within(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self._root)


class _Raw(io.FileIO):
    """A file whose bytes come out of a budget. What fits of a write is written, as by a disk."""

    def __init__(self, file: Any, mode: str, budget: Budget) -> None:
        self._budget = budget
        super().__init__(file, mode)

    def write(self, data: Any) -> int:
        self._budget.spend(memoryview(data).nbytes)
        return super().write(data)


def _text(words: dict[str, Any]) -> dict[str, Any]:
    return {key: words[key] for key in ("encoding", "errors", "newline") if key in words}


def limit(size: int) -> Callable[[], None]:
    """The kernel lets no file grow beyond a size, and says so to whoever tries; to be called in the child."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# -- a real disk -------------------------------------------------------------------------------------

_NEW_USER, _NEW_MOUNTS, _PRIVATE, _RECURSIVE, _REMOUNT = 0x10000000, 0x00020000, 1 << 18, 1 << 14, 32


def small_disk(point: Path, size: int) -> None:
    """A disk of so many bytes at a folder, for this process and its children alone.

    Raises:
        OSError: this system does not let us.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_USER | _NEW_MOUNTS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, _PRIVATE | _RECURSIVE, None)
    _call("mount", b"tmpfs", os.fsencode(point), b"tmpfs", 0, f"size={size}".encode())


def enlarge(point: Path, size: int) -> None:
    """Give a disk of ``small_disk`` more bytes."""
    _call("mount", b"tmpfs", os.fsencode(point), b"tmpfs", _REMOUNT, f"size={size}".encode())


def _call(name: str, *words: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def sizes(total: int, many: int) -> Sequence[int]:
    """From nothing to all that is needed, closer together where they are small."""
    return [round(total * (at / many) ** 2) for at in range(many)]
