"""A canary: one lane of a group has an epoch twice, called step by step and by the graph, and the curves are compared.

``proof`` compares single steps. What adds up over an epoch (a batch left out now and then, a wrong rate that rounding
hides in one step, memory that is used again between two steps) shows in the curve. It costs one epoch of one lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch

from kdbench.distiller import Batch
from kdbench.engine.graph.proof import Moment
from kdbench.engine.graph.rollback import undone
from kdbench.engine.guard import Guard
from kdbench.engine.lane import Lane
from kdbench.engine.meter import Meter
from kdbench.engine.shared import Shown

#: Share by which the mean of a term over the epoch may be another: rounding grows over an epoch, but not to so much.
APART = 0.05
#: A term that is less than this share of all terms together is measured by that.
SMALL = 0.01


class Canary:
    """An epoch of a lane, called; afterwards the lane stands where it stood.

    Args:
        lane: at the beginning of an epoch whose rate is set.
        batches: of the epoch, in order.
        steps: how many these are.
        guard: that of the group; None: the method is trusted.

    Attributes:
        why: what went wrong while it was called; "": nothing.

    >>> from kdbench.testing.examples import lanes, setting
    >>> (lane,), shared = lanes("kd"), setting()
    >>> lane.start_epoch()
    >>> batches = [Shown(image, label, idx, shared.teacher(image)) for image, label, idx in shared.train.epoch(0)]
    >>> bird = Canary(lane, batches, len(batches), None)
    >>> lane.meter.steps, bird.why
    (0, '')
    >>> for shown in batches:  # in place of a graph
    ...     lane.step(shown.teacher, Batch(shown.image, shown.label, shown.idx, torch.tensor(0.0)))
    >>> bird.judge().startswith("kd: epoch 1 was trained by the graph and step by step")
    True
    """

    def __init__(self, lane: Lane, batches: Iterable[Shown], steps: int, guard: Guard | None) -> None:
        self.lane, self.why = lane, ""
        before, seconds = lane.meter, lane.seconds
        lane.meter = Meter()
        with undone(lane):
            for number, shown in enumerate(batches):
                self.why = self._step(shown, number / steps, guard)
                if self.why:
                    break
            self._called, self._meter = Moment.of(lane), lane.meter
        lane.meter, lane.seconds = before, seconds

    def _step(self, shown: Shown, share: float, guard: Guard | None) -> str:
        lane, lent = self.lane, shown.lent()
        progress = torch.tensor((lane.epoch + share) / lane.total, device=lane.device)
        step = partial(lane.step, lent.teacher, Batch(lent.image, lent.label, lent.idx, progress, lent.target))
        if guard is None:
            step()
            return ""
        guard.note(shown)
        return guard.attempt(lane.when(), step, what=f"a step of {lane.key}", device=lane.device)

    def judge(self, leave: Callable[[str], None] = lambda why: None) -> str:
        """After the graph's epoch: what is to be said of it.

        A lane whose graph went another way goes on from where the calls brought it, and ``leave`` is told why.
        """
        lane = self.lane
        if lane.failure:  # it says why itself
            return ""
        if self.why:
            leave(f"its epoch {lane.epoch + 1} works in the graph only: {self.why}")
            return ""
        why, far = difference(lane.meter.means()[0], self._meter.means()[0])
        if why:
            self._called.put_back(lane)
            lane.meter = self._meter
            leave(f"its epoch {lane.epoch + 1} is not what the graph made of it: {why}")
            return ""
        said = f"{far:.1%}" if far >= 0.001 else "less than 0.1%"
        return (
            f"{lane.key}: epoch {lane.epoch + 1} was trained by the graph and step by step, and the means of its terms"
            f" differ by {said} at most"
        )


def difference(repeated: Mapping[str, float], called: Mapping[str, float]) -> tuple[str, float]:
    """How the means of an epoch's terms differ by more than ``APART``, in words; and by how much at most.

    >>> difference({"ce": 2.0, "kd": 1.0}, {"ce": 2.02, "kd": 1.0})
    ('', 0.0099...)
    >>> difference({"ce": 2.0}, {"ce": 1.0})
    ("the mean of its term 'ce' is 2 by the graph and 1 step by step", 1.0)
    """
    if repeated.keys() != called.keys():
        return f"it has the terms {', '.join(repeated)}, and step by step {', '.join(called)}", math.inf
    whole = sum(abs(value) for value in called.values() if math.isfinite(value))
    most = 0.0
    for name, value in called.items():
        ours = repeated[name]
        if not (math.isfinite(ours) and math.isfinite(value)):
            far = 0.0 if math.isfinite(ours) == math.isfinite(value) else math.inf
        else:
            far = abs(ours - value) / max(abs(value), SMALL * whole, 1e-12)
        if far > APART:
            return f"the mean of its term {name!r} is {ours:.3g} by the graph and {value:.3g} step by step", far
        most = max(most, far)
    return "", most
