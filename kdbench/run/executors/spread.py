"""Which pieces a run is cut into, and how long several workers take for them: numbers alone.

A load is what one worker does in a row: lanes that share a teacher pass. It is cut where that ends the whole earlier,
although each part repeats the teacher pass; a lane trains to the same bits in any company.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

#: A cut is made where it shortens the whole by so much.
GAIN = 0.02
#: Each bound on the weight of a part that is tried, as a share of the one before, and how many are.
LOWER, STEPS = 0.85, 30
#: Loads for each worker from which on nothing is cut: they fill the time as they are.
MANY = 12


@dataclass(frozen=True)
class Load:
    """Seconds, or anything in proportion.

    >>> Load((2.0, 3.0), shared=1.0).weight
    6.0
    """

    lanes: tuple[float, ...]
    shared: float = 0.0  # once in each part: the teacher's pass
    after: tuple[int, ...] = ()  # places of loads that must have ended before it begins

    @property
    def weight(self) -> float:
        """Of the whole, in one piece."""
        return self.shared + sum(self.lanes)


Parts = list[list[tuple[int, ...]]]  # of each load: its parts, as places of its lanes


def spread(loads: Sequence[Load], workers: int) -> Parts:
    """The parts of each load; every lane is in one of them.

    >>> spread([Load((1.0, 1.0, 1.0, 1.0), shared=0.5)], workers=2)
    [[(0, 2), (1, 3)]]
    >>> spread([Load((1.0, 1.0)), Load((1.0, 1.0))], workers=2)
    [[(0, 1)], [(0, 1)]]
    """
    counts = [1] * len(loads)
    if workers > 1 and len(loads) < MANY * workers:
        one_by_one, levelled = (_refined(loads, some, workers) for some in (counts, _levelled(loads, workers)))
        counts = levelled[1] if levelled[0] < one_by_one[0] * (1 - GAIN) else one_by_one[1]
    return [cut(load, count) for load, count in zip(loads, counts, strict=True)]


def _refined(loads: Sequence[Load], counts: Sequence[int], workers: int) -> tuple[float, list[int]]:
    """When the whole ends, and the counts, after one load after the other was cut once more as long as that gains."""
    counts, now = list(counts), makespan(loads, counts, workers)
    while True:
        tried = [(_with(loads, counts, place, workers), place) for place in _dear(loads, counts)]
        best, place = min(tried, default=(now, 0))
        if best >= now or best > now * (1 - GAIN):
            return now, counts
        counts[place] += 1
        now = best


def _levelled(loads: Sequence[Load], workers: int) -> list[int]:
    """Parts of each load such that no part outweighs a bound: the bound that ends the whole the soonest.

    Loads of equal weight are cut together, where one of them alone would leave the end to the others. Of bounds that
    end it about as soon the highest is taken, which repeats the fewest teacher passes.
    """
    heaviest: dict[tuple[int, int], float] = {}

    def weight(place: int, count: int) -> float:
        if (place, count) not in heaviest:
            heaviest[place, count] = max(_weights(loads[place], count))
        return heaviest[place, count]

    def below(bound: float) -> list[int]:
        most = [max(1, min(len(load.lanes), workers)) for load in loads]
        return [
            next((count for count in range(1, most[place]) if weight(place, count) <= bound), most[place])
            for place in range(len(loads))
        ]

    top = max((weight(place, 1) for place in range(len(loads))), default=0.0)
    chosen = [1] * len(loads)
    end = makespan(loads, chosen, workers)
    for step in range(1, STEPS):
        counts = below(top * LOWER**step)
        if counts != chosen and (tried := makespan(loads, counts, workers)) <= end * (1 - GAIN):
            chosen, end = counts, tried
    return chosen


def cut(load: Load, count: int) -> list[tuple[int, ...]]:
    """Its lanes in so many parts of about the same weight, each in their order.

    >>> cut(Load((5.0, 1.0, 1.0, 3.0)), 2)
    [(0,), (1, 2, 3)]
    """
    parts: list[list[int]] = [[] for _ in range(max(1, min(count, len(load.lanes))))]
    sums = [0.0] * len(parts)
    for lane in sorted(range(len(load.lanes)), key=lambda place: -load.lanes[place]):
        least = min(range(len(parts)), key=lambda place: (sums[place], len(parts[place])))
        parts[least].append(lane)
        sums[least] += load.lanes[lane]
    return [tuple(sorted(part)) for part in parts]


def makespan(loads: Sequence[Load], counts: Sequence[int], workers: int) -> float:
    """When the last of the workers ends, each of which takes the weightiest piece that can begin.

    >>> makespan([Load((4.0,)), Load((2.0,)), Load((2.0,), after=(1,))], [1, 1, 1], workers=2)
    4.0
    """
    pieces = [_weights(load, count) for load, count in zip(loads, counts, strict=True)]
    ranks, left = ranked(loads), [len(found) for found in pieces]
    waiting = [(-ranks[place], place, weight) for place, found in enumerate(pieces) for weight in found]
    heapq.heapify(waiting)
    running: list[tuple[float, int]] = []
    now = 0.0
    while waiting or running:
        later = []
        while waiting and len(running) < workers:
            rank, place, weight = heapq.heappop(waiting)
            if any(left[before] for before in loads[place].after):
                later.append((rank, place, weight))
            else:
                heapq.heappush(running, (now + weight, place))
        for one in later:
            heapq.heappush(waiting, one)
        if not running:  # a circle, which nobody makes
            break
        now, ended = heapq.heappop(running)
        left[ended] -= 1
    return now


def ranked(loads: Sequence[Load]) -> list[float]:
    """Of each load, what must be done in a row from its beginning: itself and what waits for it.

    >>> ranked([Load((1.0,)), Load((2.0,), after=(0,))])
    [3.0, 2.0]
    """
    ranks = [load.weight for load in loads]
    for place in reversed(range(len(loads))):  # whatever is waited for comes first
        for before in loads[place].after:
            ranks[before] = max(ranks[before], loads[before].weight + ranks[place])
    return ranks


def _weights(load: Load, count: int) -> list[float]:
    return [load.shared + sum(load.lanes[lane] for lane in part) for part in cut(load, count)]


def _with(loads: Sequence[Load], counts: Sequence[int], place: int, workers: int) -> float:
    """The end if that load were cut once more."""
    more = list(counts)
    more[place] += 1
    return makespan(loads, more, workers)


def _dear(loads: Sequence[Load], counts: Sequence[int]) -> list[int]:
    """Places of the loads with the weightiest parts that can be cut."""
    some = [place for place, load in enumerate(loads) if len(load.lanes) > counts[place]]
    return sorted(some, key=lambda place: -max(_weights(loads[place], counts[place])))[:4]
