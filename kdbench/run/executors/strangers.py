"""Plug-ins on their way to another process: which there are, what is in them, and how they are loaded there."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kdbench import registry
from kdbench.run import plugins

_MODULE = "module:"


class Unlike(Exception):
    """The other process cannot know the same plug-ins; the sentence says why.

    >>> raise Unlike("mine.py was changed while the run went on")
    Traceback (most recent call last):
    kdbench.run.executors.strangers.Unlike: mine.py was changed while the run went on
    """


@dataclass(frozen=True)
class Stranger:
    """One plug-in file with its text, or a module that is imported by its name."""

    name: str  # path of the file, or name of the module
    text: bytes | None = None  # None: a module

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text or b"").hexdigest()


def known() -> tuple[Stranger, ...]:
    """What this process has loaded beside kdbench's own.

    Raises:
        Unlike: a method is defined where no other process finds it, or its file is gone.

    >>> known()
    ()
    """
    found = []
    for name in registry.strangers():
        if name.startswith(_MODULE):
            module = name.removeprefix(_MODULE)
            if module == "__main__":
                raise Unlike("a method is registered in the script itself; put it into a file of its own")
            found.append(Stranger(module))
            continue
        try:
            found.append(Stranger(name, Path(name).read_bytes()))
        except OSError as error:
            raise Unlike(f"the plug-in {name} cannot be read any more: {error.strerror}") from error
    return tuple(found)


def load(strangers: tuple[Stranger, ...], folder: Path | None = None) -> None:
    """Load them in this process, where their files lie; on another machine ``folder`` is where they are put first.

    Raises:
        Unlike: a file is not what it was, or cannot be loaded.

    >>> load(())
    """
    for one in strangers:
        try:
            if one.text is None:
                import_module(one.name)
                continue
            path = Path(one.name)
            if folder is not None:
                path = Path(tempfile.mkdtemp(dir=folder)) / path.name  # two may have the same name, and be told so
                path.write_bytes(one.text)
            if hashlib.sha256(path.read_bytes()).hexdigest() != one.sha256:
                raise Unlike(f"the plug-in {one.name} was changed while the run went on; repeat the command")
            plugins.load(path)
        except Unlike:
            raise
        except Exception as error:  # whatever a stranger's file does
            raise Unlike(f"the plug-in {one.name} cannot be loaded in a worker: {error}") from error
