"""Standard output and error that never raise: whatever the encoding lacks is written in plain signs.

A reader that has gone (``| head``) ends the program as its absence would in a shell. A device that is full or gone
loses the words, not the work: the program goes on and says so at its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: What is written for a sign that the screen lacks; any other becomes a question mark.
SIGNS = {
    "→": "->",
    "←": "<-",
    "↑": "^",
    "↓": "v",
    "±": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": ".",
    "•": "*",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "─": "-",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "│": "|",
    "┃": "|",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "\u202f": " ",
}


class ReaderGone(KeyboardInterrupt):
    """Nobody reads standard output any more. As Ctrl-C: whatever is under way ends in order."""


def plain(text: str, encoding: str) -> str:
    """The text in signs that an encoding has; never raises.

    >>> plain("a → b ± ü", "ascii")
    'a -> b +- ?'
    """
    if text.isascii():
        return text
    try:
        text.encode(encoding)
    except UnicodeError:
        return "".join(_sign(sign, encoding) for sign in text)
    except LookupError:
        return text.encode("ascii", "replace").decode("ascii")
    return text


def _sign(sign: str, encoding: str) -> str:
    try:
        sign.encode(encoding)
    except UnicodeError:
        if "\ud800" <= sign <= "\udfff":  # a byte of a file's name that is no letter
            return f"\\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else f"\\u{ord(sign):04x}"
        return SIGNS.get(sign, "?")
    return sign


class Stream:
    """A text stream in front of another, which may be closed, full, gone, or of any encoding."""

    def __init__(self, to: Any, *, name: str, ends: bool) -> None:
        self._to, self._name, self._ends = to, name, ends
        self.lost: str | None = None  # why nothing can be written any more
        self.errors = "strict"  # click asks

    @property
    def encoding(self) -> str:
        """That of the stream behind; UTF-8 where it has none."""
        return getattr(self._to, "encoding", None) or "utf-8"

    @property
    def closed(self) -> bool:
        """Whether it cannot be written to; words to it are dropped in silence then."""
        return False

    def write(self, text: str) -> int:
        """As of any text stream; raises TypeError for bytes, and ReaderGone."""
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        self._try(lambda: self._to.write(plain(text, self.encoding)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As of any text stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As of any text stream; raises ReaderGone."""
        self._try(lambda: self._to.flush())

    def _try(self, act: Callable[[], object]) -> None:
        if self._to is None or self.lost is not None:
            return
        try:
            act()
        except BrokenPipeError:
            self._lose("nobody reads it any more")
            if self._ends:
                raise ReaderGone from None
        except (OSError, ValueError) as error:  # a ValueError: somebody has closed it
            self._lose((isinstance(error, OSError) and error.strerror) or "it is closed")

    def _lose(self, why: str) -> None:
        self.lost = f"cannot write to {self._name}: {why}"

    def end(self) -> None:
        """What is still in buffers must not raise when Python ends."""
        if self.lost is not None:
            with suppress(Exception):
                fd = self._to.fileno()
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, fd)
                os.close(null)

    def close(self) -> None:
        """Others write here, too: it stays open."""

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's behind, save for its bytes, which have no plain signs."""
        if name in ("buffer", "detach", "_to"):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self._to, name)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return bool(self._to.isatty())
        except (AttributeError, ValueError, OSError):
            return False

    def fileno(self) -> int:
        """Raises: OSError: there is none."""
        if self._to is None:
            raise OSError("there is no such stream")
        return int(self._to.fileno())


def standard(*, stderr: bool = False) -> Stream:
    """Standard output, or error, as it is now; wrapped if it is not yet."""
    there = sys.stderr if stderr else sys.stdout
    if isinstance(there, Stream):
        return there
    return Stream(there, name="standard error" if stderr else "standard output", ends=not stderr)


@contextmanager
def unbreakable() -> Iterator[tuple[Stream, Stream]]:
    """Standard output and error as ``Stream`` while the block runs, for whoever writes to them."""
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    now = standard(), standard(stderr=True)
    sys.stdout, sys.stderr = now
    try:
        yield now
    finally:
        for stream in now:
            with suppress(ReaderGone):
                stream.flush()
            stream.end()
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """Descriptors 0 to 2 that are closed (``>&-``) would be given to the next file that is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
