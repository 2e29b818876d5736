"""What cells take beside each other, without measuring anything: multiply-accumulates of their networks.

Which group is begun first, and which is cut, follows from these; an estimate in seconds has speeds of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from kdbench import registry
from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.run.executors.spread import Load
from kdbench.run.grid import Cell
from kdbench.run.lanes import epochs
from kdbench.run.networks import network
from kdbench.run.stopwatch import BOTH, TIMM, count_macs, timm_net
from kdbench.suites import Suite, costs

#: Of a network that cannot be built here, which its cells will say.
UNKNOWN = 1e7
_CPU = torch.device("cpu")


def steps(cell: Cell) -> float:
    """Of a cell's training, in steps of its student alone for one image of the data set: the same on every machine.

    >>> from kdbench.run.session import Request, resolve
    >>> few = resolve(Request("student,semckd", "resnet20:resnet8", "digits", seeds="0,", epochs=2)).cells
    >>> steps(few[0]), steps(few[1]) > 5 * steps(few[0])
    (2.0, True)
    """
    known, found = _shares(), 1.0
    for part in registry.get(cell.method).components():
        # What further views cost the student is in the table; of a method that it lacks each is a step more.
        found += known.get(registry.name_of(part), float(len(part.views)))
    return epochs(cell) * found


@cache
def _shares() -> dict[str, float]:
    try:
        return {name: max(0.0, one.share) for name, one in costs.load().items()}
    except ValueError:
        return {}


class Weights:
    """Multiply-accumulates of a suite's cells, in millions.

    >>> from kdbench import suites
    >>> weights = Weights(suites.load("digits"))
    >>> weights.network("resnet20") > 2 * weights.network("resnet8") > 0
    True
    """

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._known: dict[str, float] = {}

    def network(self, name: str) -> float:
        """Of one image, forward."""
        if name not in self._known:
            before = rng_state(_CPU)
            try:
                self._known[name] = self._macs(name) / 1e6
            except Exception:  # the cell will say so
                self._known[name] = UNKNOWN / 1e6
            finally:
                set_rng_state(before, _CPU)
        return self._known[name]

    def _macs(self, name: str) -> float:
        size, classes = self._suite.image_size, self._suite.num_classes
        if name.startswith(TIMM):  # may be large: no number is computed, and no memory taken
            with torch.device("meta"):
                return count_macs(timm_net(name, classes, size).eval(), torch.empty(1, 3, size, size))
        net = network(name, classes, image_size=size, pretrained=False)
        return count_macs(net.eval(), torch.zeros(1, 3, size, size))

    def cell(self, cell: Cell) -> float:
        """Of a cell's training, for one image of the data set, without its teacher."""
        return BOTH * self.network(cell.student) * steps(cell)

    def load(self, cells: Sequence[Cell]) -> Load:
        """Of a group, as a load."""
        first = cells[0]
        tutor = first.assistant.student if first.assistant else first.teacher
        views = 1 + len(registry.get(first.method).views)
        shared = max(map(epochs, cells)) * views * self.network(tutor) if tutor else 0.0
        return Load(tuple(map(self.cell, cells)), shared)

    def teacher(self, name: str, length: int) -> Load:
        """Of a teacher's own training, as a load."""
        return Load((length * BOTH * self.network(name),))
