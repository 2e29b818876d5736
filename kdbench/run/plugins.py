"""Loading a stranger's file or package: what it changes of the process at its import is put back, and it is refused.

A method that is changed by its file's first lines - another default dtype, a function of torch that is replaced - would
be another one here than its author thinks, and so would every other method in the process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kdbench import registry
from kdbench.engine.guard import listed
from kdbench.engine.process import Process

T = TypeVar("T")

#: What a file may change without changing a number of its own or of others; it is put back all the same.
_HARMLESS = {"the warnings filters", "the garbage collector", "the recursion limit"}


def load(path: str | Path) -> str:
    """``registry.load_plugin``, after which the process is as it was before.

    Raises:
        ValueError: as there; or the file changes what others see, too.

    >>> load("nowhere.py")
    Traceback (most recent call last):
    ValueError: no plug-in file 'nowhere.py'
    """

    registry.names()  # our own methods are loaded before the first look
    try:
        return unchanged(f"plug-in {Path(path).name}", lambda: registry.load_plugin(path))
    except Changed as error:
        registry.unload(Path(path).stem, str(error))
        raise


class Changed(ValueError):
    """What was imported changes what others see, too; it has been put back.

    >>> raise Changed("plug-in mine.py changes the default dtype when it is imported")
    Traceback (most recent call last):
    kdbench.run.plugins.Changed: plug-in mine.py changes the default dtype when it is imported
    """


def unchanged(what: str, work: Callable[[], T], *, when: str = "when it is imported", own: int = 1) -> T:
    """What ``work`` returns, an import or what ``when`` says, after which the process is as it was before.

    ``own`` counts the imports that are counted as ``work``'s own.

    Raises:
        Changed: it was not.

    >>> unchanged("my package", lambda: 1)
    1
    """
    process = Process()
    process.note(thorough=True)
    try:
        found = work()
    finally:
        changed = [one for one in process.put_back(own=own) if one not in _HARMLESS]
        process.close()
    if changed:
        raise Changed(
            f"{what} changes {listed(changed)} {when}; it may not change what others see, too: take that out of it"
        )
    return found


# Methods of installed packages are looked for when somebody first asks for a method: from now on with this around them.
registry.attend(unchanged)
