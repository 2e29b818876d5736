"""Do a task and the driver see one output folder? The driver writes a file with a number, and the task looks for it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Token:
    """A file of the output folder, and what stands in it."""

    path: Path  # absolute
    text: str

    def seen(self) -> bool:
        """Whether it lies here, too.

        >>> Token(Path("/nowhere/token"), "1").seen()
        False
        """
        with suppress(OSError, UnicodeDecodeError):
            return self.path.read_text(encoding="ascii") == self.text
        return False


@contextmanager
def token(out: Path) -> Iterator[Token]:
    """One that lies there as long as the block lasts.

    >>> with token(Path("results")) as one:
    ...     one.seen()
    True
    >>> one.seen()
    False
    """
    made = Token(out.absolute() / ".locks" / f"ray-{secrets.token_hex(8)}", secrets.token_hex(16))
    made.path.parent.mkdir(parents=True, exist_ok=True)
    made.path.write_text(made.text, encoding="ascii")
    try:
        yield made
    finally:
        made.path.unlink(missing_ok=True)


def name_of(out: Path) -> str:
    """A name of this output folder that no other has, and that a later command finds again: nodes keep files by it.

    >>> name_of(Path("results")) == name_of(Path("results"))
    True
    """
    file = out / ".locks" / "ray"
    with suppress(OSError, UnicodeDecodeError):
        if len(text := file.read_text(encoding="ascii").strip()) == 32 and text.isalnum():
            return text
    file.parent.mkdir(parents=True, exist_ok=True)
    text = secrets.token_hex(16)
    file.write_text(text, encoding="ascii")
    return text
