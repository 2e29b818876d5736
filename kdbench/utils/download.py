"""Files from the network: whole and the right ones, or not there; what broke off goes on where it was."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from kdbench.utils.files import sync_folder
from kdbench.utils.wording import printable

#: Seconds without a byte after which a host counts as silent; bytes that are read at once.
PATIENCE, PIECE = 30.0, 2**16
AGENT = "kdbench"


class NotFetched(Exception):
    """A file could not be had; the text is the end of a sentence.

    >>> str(NotFetched("the server says 404 Not Found"))
    'the server says 404 Not Found'
    """


def fetch(address: str, target: Path, *, sha256: str, size: int, told: Callable[[int], None]) -> None:
    """Bring a file. It takes its place when its size and its hash are right, and not before.

    What was brought of it before lies beside it (``NAME.part``) and is gone on with, where the server does that.

    Args:
        address: http or https.
        target: where it is to lie.
        sha256: 64 hex digits.
        size: bytes.
        told: hears how many bytes are there.

    Raises:
        NotFetched: no network, no such file, it broke off, or it is another file.
        OSError: the disk does not take it.

    >>> fetch("http://127.0.0.1:9/x.pt", Path("x.pt"), sha256="0" * 64, size=3, told=print)
    Traceback (most recent call last):
    kdbench.utils.download.NotFetched: the network does not reach it (...)
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    there = part.stat().st_size if part.is_file() else 0
    if there > size:
        there = 0
    if there < size:
        there = _bring(address, part, there, size, told)
    if there < size:
        raise NotFetched(f"it broke off after {there:,} of {size:,} bytes; repeat the command to go on from there")
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise NotFetched(f"what came is another file: sha256 {found[:12]}, the table has {sha256[:12]}")
    os.replace(part, target)
    sync_folder(target.parent)


def _bring(address: str, part: Path, there: int, size: int, told: Callable[[int], None]) -> int:
    """Append what is missing; returns how many bytes lie there then."""
    request = urllib.request.Request(address, headers={"User-Agent": AGENT})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # it has no such bytes: what lies here is of another file
            part.unlink(missing_ok=True)
        raise NotFetched(f"the server says {error.code} {printable(str(error.reason), 60)}") from error
    except urllib.error.URLError as error:
        raise NotFetched(f"the network does not reach it ({printable(str(error.reason), 100)})") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise NotFetched(f"the server does not answer as one should ({printable(str(error), 100)})") from error
    with answer:
        if there and answer.status != 206:  # all of it comes anew
            there = 0
        with open(part, "ab" if there else "wb") as file:
            while there <= size and (piece := _piece(answer)):
                file.write(piece)
                there += len(piece)
                told(min(there, size))
    if there > size:
        part.unlink()
        raise NotFetched(f"what comes is larger than the {size:,} bytes of the table, so it is another file")
    return there


def _piece(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; none where it has ended or broken off."""
    try:
        return answer.read(PIECE)
    except http.client.IncompleteRead as error:
        return error.partial
    except (http.client.HTTPException, OSError):
        return b""


def file_sha256(file: Path) -> str:
    """Of a file's bytes, 64 hex digits.

    >>> _ = Path("x.pt").write_bytes(b"abc")
    >>> file_sha256(Path("x.pt"))[:8]
    'ba7816bf'
    """
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
