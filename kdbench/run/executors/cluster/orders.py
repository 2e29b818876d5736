"""What a task is told, and what it says beside events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdbench.run.executors.cluster.luggage import Plugin
from kdbench.run.executors.cluster.parcel import Files, Parcel, Roots
from kdbench.run.executors.cluster.token import Token
from kdbench.run.executors.messages import Raised
from kdbench.run.group import Work
from kdbench.run.outcome import Done


@dataclass(frozen=True)
class Order:
    """One try of a unit."""

    ticket: int  # no other try of any unit has it
    work: Work  # its folders as the driver has them, absolute
    plugins: tuple[Plugin, ...]
    token: Token
    images: tuple[Any, ...]  # a reference to what ``Dataset`` the driver has; empty: to be read on the node
    key: str  # of the data set
    parcel: Parcel | None = None  # None: the node is expected to see the output folder
    sharing: int = 1  # tasks on its device
    rooms: dict[str, int] = field(default_factory=dict)  # bytes of main memory for each worker of a node, by its name


@dataclass(frozen=True)
class Began:
    """A task runs: where, and with what."""

    node: str
    host: str
    pid: int
    facts: dict[str, Any]  # versions and processor, see ``utils.environment``
    roots: Roots  # the folders that it works in


@dataclass(frozen=True)
class Came:
    """Files of cells that have ended, of a node that does not see the output folder."""

    files: Files


@dataclass(frozen=True)
class Finished:
    """A unit has ended; what was made where the output folder is not seen comes with it."""

    done: Done
    files: Files
    work: Work  # as the node knows it


@dataclass(frozen=True)
class Apart:
    """The node does not see the output folder; nothing was done."""

    node: str
    host: str


@dataclass(frozen=True)
class Unfit:
    """The node's device is not in order."""

    node: str
    host: str
    sentence: str


Answer = Finished | Apart | Unfit | Raised
