"""Loading a stranger's file: what it changes of the process while it is imported is put back, and it is refused.

A method that is changed by its file's first lines - another default dtype, a function of torch that is replaced - would
be another one here than its author thinks, and so would every other method in the process.
"""

from __future__ import annotations

from pathlib import Path

from kdbench import registry
from kdbench.engine.guard import listed
from kdbench.engine.process import Process

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
    process = Process()
    process.note(thorough=True)
    try:
        name = registry.load_plugin(path)
    finally:
        changed = [what for what in process.put_back(own=1) if what not in _HARMLESS]
        process.close()
    if changed:
        why = (
            f"plug-in {Path(path).name} changes {listed(changed)} when it is imported; it may not change what others"
            " see, too: take that out of it"
        )
        registry.unload(name, why)
        raise ValueError(why)
    return name
