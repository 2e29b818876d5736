"""A wing that has the name of a function: the package can be called as that function, whoever imported it first."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


def also_a_function(wing: str, home: str) -> None:
    """Let the package ``wing`` be called as the function of its last name in the module ``home``.

    Importing a submodule binds a package's name on its parent, so ``kdbench.run`` is the package whatever else is
    bound there. ``home`` is loaded when it is called.

    >>> import inspect, kdbench
    >>> callable(kdbench.report), inspect.ismodule(kdbench.report)
    (True, True)
    """
    name = wing.rpartition(".")[2]

    class Wing(ModuleType):
        def __call__(self, *args: Any, **words: Any) -> Any:
            return self.__wrapped__(*args, **words)

        @property
        def __wrapped__(self) -> Callable[..., Any]:
            """The function: what ``inspect`` shows the signature of."""
            found: Callable[..., Any] = getattr(import_module(home), name)
            return found

    Wing.__call__.__doc__ = f"``{home}.{name}``: its documentation is there."
    sys.modules[wing].__class__ = Wing
