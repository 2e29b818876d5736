"""What is known of records that were read before: enough to plan a run without reading a thousand of them again.

A record is believed to be the one that was read as long as the file system says that it is the same file, as long and
changed at the same moments; the time of its last change of any kind cannot be set back. Whatever is out of the ordinary
is read anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdbench import record
from kdbench.utils import sealed
from kdbench.utils.collecting import no_collecting

Sign = tuple[int, int, int, int]


class Known(BaseModel):
    """What planning asks of a record.

    >>> Known(status="done", settings_hash="ab", plugin_sha256="", quick=False, epochs=3, teacher_sha256="").data
    {}
    """

    status: str
    settings_hash: str
    plugin_sha256: str
    quick: bool
    epochs: int
    teacher_sha256: str
    data: dict[str, Any] = {}


class _Kept(BaseModel):
    """A file of them: by the path within the output folder."""

    records: dict[str, tuple[Sign, Known]] = {}
    checksum: str = ""


_seen: dict[Path, tuple[Sign, Known]] = {}


def of(path: Path) -> Known:
    """What is known of the record in a file, which is read where it is not the one that was read last.

    Raises:
        RecordDamaged, FileNotFoundError: see ``record.read``.

    >>> of(Path("nothing.json"))
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    sign = _sign(path)
    found = _seen.get(path)
    if found is not None and found[0] == sign:
        return found[1]
    one = record.read(path)
    known = Known(**{name: getattr(one, name) for name in Known.model_fields})
    if _sign(path) == sign:  # nobody has written another one in between
        _seen[path] = sign, known
    return known


def load(out: Path) -> None:
    """Take in what earlier runs on a folder have read.

    >>> load(Path("nowhere"))
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = sealed.fields(_file(out))
        sealed.check(_file(out), values)
        for name, (sign, known) in _Kept.model_validate(values).records.items():
            _seen.setdefault(out / name, (sign, known))


def learn(out: Path, paths: Iterable[Path]) -> None:
    """Read what a run has written, once, and write down what is known of it, so that the next plan reads nothing.

    >>> learn(Path("nowhere"), [])
    """
    with no_collecting():
        for path in paths:
            with suppress(OSError, record.RecordDamaged):
                of(path)
    keep(out)


def keep(out: Path) -> None:
    """Write it down for the next run, where there is enough of it to be worth a file; what cannot be is not.

    >>> keep(Path("nowhere"))
    """
    mine = {str(path.relative_to(out)): found for path, found in _seen.items() if path.is_relative_to(out)}
    if len(mine) >= _WORTH:
        with suppress(OSError):
            sealed.write(_Kept(records=mine), _file(out))


#: So many records are read in less than half a second.
_WORTH = 50


def _file(out: Path) -> Path:
    return out / ".known"


def _sign(path: Path) -> Sign:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
