"""Files that are there whole or not at all.

`atomic_write` is the one way in which kdbench replaces a file: the new bytes lie beside the old ones, are forced
to disk, and only then take their name. A full disk, an exception or a kill at any moment leaves the old file.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Literal, TextIO, overload

_LONGEST = 200  # bytes of a file's own name in its temporary's name; file systems allow 255 in all
_ABANDONED = 24 * 3600.0  # seconds after which nobody still writes to a temporary
_number = itertools.count()


@overload
def atomic_write(path: str | os.PathLike[str], mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...
@overload
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["w"], *, encoding: str = ..., errors: str = ..., newline: str = ...
) -> AbstractContextManager[TextIO]: ...
def atomic_write(
    path: str | os.PathLike[str],
    mode: Literal["wb", "w"] = "wb",
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
    newline: str = "\n",
) -> AbstractContextManager[IO]:
    """Write a file whole or not at all::

        with atomic_write(path) as file:
            file.write(data)

    When the block ends without an exception, the bytes and the folder are synced and the file has its name.
    After any exception, `KeyboardInterrupt` and the like included, the temporary is gone and what lay under the
    name is untouched. A process that is killed outright leaves a hidden ``.NAME.*.tmp``; the next write of the same
    file removes those that are older than a day. Two writers at once do not meet: the later one wins.

    A symbolic link is followed: the file that it names is replaced, and the link stays. A file that was there keeps
    its permission bits, a new one gets those of any new file (the umask).

    Args:
        path: the file; its folder must be there.
        mode: ``wb`` for bytes, ``w`` for text.
        encoding, errors, newline: of text, as `open` takes them; lines end in ``\\n`` on every system.

    Yields:
        The temporary, open for writing. A library that writes by name may write into its ``name``.

    Raises:
        OSError: there is no such folder, no room or no permission; or a folder has that name.
    """
    return _atomic_write(Path(path), mode, encoding, errors, newline)


@contextmanager
def _atomic_write(path: Path, mode: str, encoding: str, errors: str, newline: str) -> Iterator[IO]:
    target = Path(os.path.realpath(path))
    _remove_abandoned(target)
    aside = target.with_name(f"{_prefix(target)}{os.getpid()}-{next(_number)}.tmp")
    text = {} if mode == "wb" else {"encoding": encoding, "errors": errors, "newline": newline}
    file = open(aside, mode, opener=_opened_anew, **text)  # type: ignore[call-overload] # noqa: SIM115
    try:
        with file:
            yield file
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
            else:
                _sync(aside)
        with suppress(FileNotFoundError):
            os.chmod(aside, stat.S_IMODE(target.stat().st_mode))
        os.replace(aside, target)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to disk: a rename survives a power cut only then. Nothing on systems without that."""
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _opened_anew(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def _sync(path: Path, flags: int = os.O_RDWR | getattr(os, "O_BINARY", 0)) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prefix(target: Path) -> str:
    """How the temporaries of a file begin."""
    return "." + os.fsdecode(os.fsencode(target.name)[:_LONGEST]) + "."


def _remove_abandoned(target: Path) -> None:
    prefix, now = _prefix(target), time.time()
    with os.scandir(target.parent) as found:
        for entry in found:
            if entry.name.startswith(prefix) and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                        os.unlink(entry.path)
