"""The parts of a grid that several machines take, each without asking the others: a function of the cells alone."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench import registry
from kdbench.run import grid
from kdbench.run.executors.spread import Load, spread
from kdbench.run.executors.weights import steps
from kdbench.run.grid import Cell
from kdbench.run.lanes import epochs

#: A teacher's pass beside a student's step. What methods cost is in a table that every machine has; networks are not
#: asked, for a machine that could not build one would divide otherwise.
PASS = 1.0


def shards(cells: Sequence[Cell], count: int) -> list[list[Cell]]:
    """As many parts, of about as much work each, and none more than there are cells; some may be empty.

    Groups stay whole, so that no teacher pass is repeated, unless they are too few or too unequal. Those who learn
    from one assistant stay together: it is trained once.

    >>> from kdbench.run.session import Request, resolve
    >>> cells = resolve(Request("kd,crd,at", "resnet20:resnet8", "digits", seeds="2")).cells
    >>> [len(part) for part in shards(cells, 2)], [len(part) for part in shards(cells, 4)]
    ([3, 3], [2, 2, 1, 1])
    """
    count = min(count, max(1, len(cells)))
    groups = grid.groups(cells)
    loads = [_load(group) for group in groups]
    pieces = []
    for group, load, parts in zip(groups, loads, spread(loads, count), strict=True):
        for part in parts:
            some = [group[place] for place in part] if len(load.lanes) == len(group) else group
            pieces.append((load.shared + sum(load.lanes[place] for place in part), some))
    weights, found = [0.0] * count, [list[Cell]() for _ in range(count)]
    for weight, some in sorted(pieces, key=lambda piece: -piece[0]):  # equal ones in their order
        least = weights.index(min(weights))
        weights[least] += weight
        found[least] += some
    return found


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """The ``index``-th (from 1) of ``count`` parts.

    >>> shard([], 1, 4), shard([], 4, 4)
    ([], [])
    """
    parts = shards(cells, count)
    return parts[index - 1] if index <= len(parts) else []


def _load(group: Sequence[Cell]) -> Load:
    lanes = tuple(map(steps, group))
    if registry.get(group[0].method).assistant:
        lanes = (sum(lanes),)
    return Load(lanes, PASS * max(map(epochs, group)) if group[0].teacher else 0.0)
