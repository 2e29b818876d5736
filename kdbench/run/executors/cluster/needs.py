"""What a task asks of a node: processors, a GPU or a part of one, and main memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.run.device_memory import CONTEXT, group_needs
from kdbench.run.executors.cluster.connect import Node
from kdbench.run.grid import Cell
from kdbench.run.group import Work
from kdbench.run.session import Job, Request
from kdbench.utils import environment

#: Bytes of a process with its libraries that has trained nothing yet.
PROCESS = 700 * 10**6
_CPU = torch.device("cpu")


class Needs:
    """Of the units of a run, on a cluster.

    Args:
        nodes: of the cluster.
        device: ``cpu`` or ``cuda:0``.
        workers: at once.
        data: bytes of the data set, which every process holds.
    """

    def __init__(self, nodes: Sequence[Node], device: str, workers: int, data: int) -> None:
        self.device, self._data = device, data
        threads = environment.threads()
        places = {node: node.places(device, threads) for node in nodes}
        #: Bytes for each worker of a node, by its name.
        self.rooms = {node.name: int(node.memory / here) for node, here in places.items() if here and node.memory}
        gpus = int(sum(node.gpus for node in nodes))
        self.sharing = max(1, -(-workers // max(1, gpus))) if device.startswith("cuda") else 1
        self._known: dict[tuple[str, str], int] = {}

    def of(self, work: Work) -> dict[str, Any]:
        """As Ray's options of a task. Nothing is asked for that no node has."""
        asked: dict[str, Any] = {"num_cpus": environment.threads()}
        if self.device.startswith("cuda"):
            asked["num_gpus"] = 1 if self.sharing == 1 else int(1000 / self.sharing) / 1000
        if self.rooms:
            asked["memory"] = min(self._bytes(work), max(self.rooms.values()))
        return asked

    def _bytes(self, work: Work) -> int:
        """Of main memory, about: what a lane takes is computed from shapes, once for each pair of networks."""
        found = PROCESS + 2 * self._data
        if self.device == "cpu":
            found += sum(self._lane(cell, work) for cell in work.cells)
        return found

    def _lane(self, cell: Cell, work: Work) -> int:
        pair = cell.teacher, cell.student
        if pair not in self._known:
            before = rng_state(_CPU)
            try:
                job = Job(Request(precision=work.precision), work.suite, self.device, [cell])
                (need,), _ = group_needs(job, [cell])
                self._known[pair] = need.standing + need.step
            except Exception:  # a network or method that does not run without values
                self._known[pair] = CONTEXT
            finally:
                set_rng_state(before, _CPU)
        return self._known[pair]
