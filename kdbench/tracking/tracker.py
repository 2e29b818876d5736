"""The protocol of a tracker: it is told points, and closed at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Point:
    """What is known of a cell after one epoch of its main stage.

    >>> Point("digits/resnet20-resnet8/kd-s0-1a2b3c4d", "kd on resnet20:resnet8, seed 0", 3, {"lr": 0.05}).epoch
    3
    """

    series: str  # whose: parts between slashes, each fit for a file's name; the same in every run on a folder
    title: str  # for people
    epoch: int  # from 1
    values: dict[str, float]
    facts: dict[str, Any] = field(default_factory=dict)  # of the cell: method, pair, seed ...; with its first point
    last: bool = False  # the cell has come to its end


class Tracker(Protocol):
    """Writes points somewhere. Made with the folder that is its own; may raise whatever it likes.

    Points of a series come in the order of their epochs. A series that begins at an epoch that it has seen in an
    earlier run takes up there: later points of that run are to be dropped, so that no epoch is there twice.

    >>> class Printed(Tracker):
    ...     def point(self, point):
    ...         print(point.series, point.epoch)
    >>> Printed().point(Point("teachers/digits/resnet20", "teacher resnet20", 1, {}))
    teachers/digits/resnet20 1
    """

    def point(self, point: Point) -> None:
        """Write it, so that a kill after this loses nothing."""

    def close(self) -> None:
        """No more points come."""
