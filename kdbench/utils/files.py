"""Files that are whole or not there: the one way in which kdbench writes what must not be lost."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kdbench.utils.wording import quoted

_PREFIX, _SUFFIX = ".kdbench-", ".tmp"
#: Seconds after which a file beside its target is what a killed process left behind.
_STALE = 24 * 3600.0
_swept: set[Path] = set()


@contextmanager
def atomic_write(path: Path, mode: str = "wb", *, newline: str | None = None) -> Iterator[IO[Any]]:
    """A file to write to; what was written takes the place of ``path`` when the block ends without an error.

    It is written beside its target, forced to disk and renamed, and the folder is forced to disk after that:
    whenever the process dies or the disk fills, ``path`` is what it was or what it is to be. Text is UTF-8. Folders
    above it are made; a link at ``path`` is replaced, not followed. A pipe or a device is no file to take the place of.

    Raises:
        OSError: it cannot be written, and names a file; what lay at ``path`` is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a" / "note.txt", "w") as file:
    ...         _ = file.write("whole")
    ...     (Path(folder) / "a" / "note.txt").read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _replaceable(path)
    _sweep(path.parent)
    aside = path.with_name(f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
    try:
        encoding = None if "b" in mode else "utf-8"
        with open(aside, mode.replace("w", "x"), encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if (
            isinstance(error, OSError) and error.errno is not None and error.filename is None
        ):  # a write that does not fit names no file
            error.filename = os.fspath(path)
        raise
    sync_folder(path.parent)


def _replaceable(path: Path) -> None:
    """Raises: OSError: a folder, a device, a pipe or a socket lies there, or a link to one that a rename would take."""
    for look in (os.lstat, os.stat):
        try:
            mode = look(path).st_mode
        except OSError:  # there is none; what else it is, is said when it is written
            continue
        if look is os.lstat and stat.S_ISDIR(mode):  # the system would name the file beside it
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no file", os.fspath(path))


def _sweep(folder: Path) -> None:
    """Take away, once per process, what killed processes left beside their targets long ago."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()


def sync_folder(folder: Path) -> None:
    """A rename itself survives a power cut only when the folder is forced to disk, too."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def content(path: Path) -> bytes:
    """What a file holds, all of it. A pipe or a device in its place is an error: reading it might never end.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is no file.

    >>> _ = Path("note.txt").write_bytes(b"whole")
    >>> content(Path("note.txt"))
    b'whole'
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):  # the system would name the descriptor's number
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no file", os.fspath(path))
        with open(file, "rb", closefd=False) as opened:
            return opened.read()
    finally:
        os.close(file)


def trouble(error: OSError) -> str:
    """What the system could not do, and with which file, without its number.

    >>> trouble(OSError(28, "No space left on device", "a.json"))
    'a.json: No space left on device'
    """
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename and error.strerror else what


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~name`` written out.

    Raises:
        ValueError: there is no such user, or the text cannot be a path.

    >>> expanded("~/results").is_absolute()
    True
    """
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise ValueError(f"a path is a text or a pathlib.Path, not {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{quoted(path)} begins with the home folder of a user that is not known here") from None


#: Folders of an output folder whose files are read again: what else lies in them is taken for such a file.
READ_AGAIN = ("runs", "students", "teachers", "assistants", "tuned", "probes", "checkpoints", "tables", ".locks")


def apart(target: Path, results: Path) -> None:
    """What is written for others does not go among the files that kdbench reads again, nor in their place.

    Args:
        target: where to write.
        results: an output folder; others are known by the locks in them.

    Raises:
        ValueError: it lies among them.

    >>> apart(Path("site"), Path("results"))
    >>> apart(Path("results/runs/site"), Path("results"))
    Traceback (most recent call last):
    ValueError: results/runs/site lies among the files of the output folder results; write to a place outside of it
    """
    whole, own = Path(os.path.realpath(target)), Path(os.path.realpath(results))
    for parent in whole.parents:
        inside = whole.relative_to(parent).parts[0] in READ_AGAIN
        if inside and (parent == own or (parent / ".locks").is_dir()):
            place = results if parent == own else parent
            raise ValueError(
                f"{target} lies among the files of the output folder {place}; write to a place outside of it"
            )


def is_file(path: Path) -> bool:
    """Whether a file lies there that can be read to its end: no folder, no pipe. Never raises.

    What cannot be looked at, and a name that no file system takes, is none.

    >>> is_file(Path("/")), is_file(Path("no such file"))
    (False, False)
    """
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_writable(out: Path, *, keep: bool = True) -> None:
    """Try a real write, before hours are spent.

    Args:
        out: the folder; it is made where it is missing.
        keep: False: folders that were made for the trial are taken away again.

    Raises:
        ValueError: the folder cannot be made or written.

    >>> check_writable(Path("results/of/mine"))
    >>> list(Path("results/of/mine").iterdir())
    []
    """
    probe = out / f".kdbench-write-{os.getpid()}"
    made = [] if keep else [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"kdbench")
    except OSError as error:
        raise ValueError(
            f"cannot write to the output folder {out}: {error.strerror}; choose another with --out"
        ) from error
    finally:  # also of a disk that is full half-way
        with suppress(OSError):
            probe.unlink()
        for folder in made:
            with suppress(OSError):  # was not made, or somebody else has begun to use it
                folder.rmdir()
