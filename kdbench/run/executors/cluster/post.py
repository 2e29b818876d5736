"""Where tasks say what happens, and the driver hears it: an actor without any thought of its own."""

from __future__ import annotations

import time


class Post:
    """Messages of tasks, in their order.

    >>> post = Post()
    >>> post.put(3, ["a step"]) < 1
    True
    >>> post.take(), post.take()
    ([(3, ['a step'])], [])
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, list[object]]] = []
        self._taken = time.monotonic()

    def put(self, ticket: int, messages: list[object]) -> float:
        """What the task with this ticket says; returns the seconds since the driver last asked."""
        self._held.append((ticket, messages))
        return time.monotonic() - self._taken

    def take(self) -> list[tuple[int, list[object]]]:
        """What has come since."""
        held, self._held = self._held, []
        self._taken = time.monotonic()
        return held
