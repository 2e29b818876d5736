"""What is raised when data are not there or will not do, and how a path is written in a sentence."""

from __future__ import annotations

import os


class DataMissing(ValueError):
    """Files of a data set are not there or cannot be read.

    >>> from kdbench.data import load
    >>> load("imagefolder:/no/such/folder")
    Traceback (most recent call last):
    kdbench.data.errors.DataMissing: there is no folder /no/such/folder; an image folder has ...
    """


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one line of text: line breaks, control signs and bytes that are no UTF-8 are escaped."""
    text = os.fspath(path)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def why(error: BaseException) -> str:
    """The reason of an operating-system error, or the first line of any other, without Python's class name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).split("\n")
    return shown(lines[0].strip().rstrip(".")) or type(error).__name__
