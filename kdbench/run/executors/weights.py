"""What cells take beside each other, without measuring anything: multiply-accumulates of their networks.

Which group is begun first, and which is cut, follows from these; an estimate in seconds has speeds of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench import models, registry
from kdbench.engine.rng import rng_state, set_rng_state
from kdbench.run.executors.spread import Load
from kdbench.run.grid import Cell
from kdbench.run.lanes import epochs
from kdbench.run.stopwatch import BOTH, TIMM, count_macs, timm_net
from kdbench.suites import Suite, costs

#: Of a network that cannot be built here, which its cells will say.
UNKNOWN = 1e7
_CPU = torch.device("cpu")


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
        try:
            self._shares = {name: max(0.0, one.share) for name, one in costs.load().items()}
        except ValueError:
            self._shares = {}

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
        net = models.create(name, classes, image_size=size, pretrained=False)
        return count_macs(net.eval(), torch.zeros(1, 3, size, size))

    def cell(self, cell: Cell) -> float:
        """Of a cell's training, for one image of the data set, without its teacher."""
        method = registry.get(cell.method)
        share = sum(self._shares.get(registry.name_of(part), 0.0) for part in method.components())
        return epochs(cell) * (1 + len(method.views)) * BOTH * self.network(cell.student) * (1 + share)

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
