"""Networks that are built outside of a lane, where no guard stands around them: teachers, and what an estimate times.

A user's network is code of a stranger. What its constructor changes of the process would change all that is trained
after it, so it is put back and the network is refused, as a plug-in is at its import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kdbench import models
from kdbench.models import Tapped, entered
from kdbench.registry.code import of_function
from kdbench.run.plugins import unchanged

T = TypeVar("T")

entered.codes_by(of_function)


def network(name: str, num_classes: int, **more: Any) -> Tapped:
    """``models.create``, guarded.

    Raises:
        ValueError: as there, and see ``guarded``.

    >>> network("resnet8", 10).name
    'resnet8'
    """
    return guarded(name, lambda: models.create(name, num_classes, **more))


def guarded(name: str, make: Callable[[], T]) -> T:
    """What ``make`` gives, in which a network of that name is built, after which the process is as it was before.

    Raises:
        ValueError: a network of the user's changes what others see, too, or ends the process.

    >>> guarded("resnet8", lambda: 1)
    1
    """
    if entered.find(name) is None:
        return make()

    def within() -> T:
        try:
            return make()
        except SystemExit as error:
            raise ValueError(f"network {name} ends the process when it is built (exit code {error.code})") from error

    return unchanged(f"network {name}", within, when="when it is built", own=0)
