"""Whether a step that a graph repeats is the step: compared, tensor by tensor, with the same step called.

Both begin from one state. Kernels may sum in another order from call to call, so what two calls of the same step
differ by is the yardstick. Compared is what the step changed: a wrong rate, a lost gradient or another lane's random
numbers move a tensor by a good part of its change, rounding by some thousandths (fp32) to a tenth (bf16) of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdbench.engine.lane import Lane

#: Share of a tensor's largest change that is allowed beside the noise, by precision: what another order of sums does to
#: the gradients of the zoo's networks (against fp64 up to 5e-3 in fp32, 9e-2 in tf32 and fp16, 2e-1 in bf16) is more
#: than the same kernels do, launched another way.
FLOOR = {"fp32": 2e-3, "tf32": 2e-2, "fp16": 2e-2, "amp": 2e-2, "bf16": 1e-1}
#: Roundings of fp32 that a stored value may be apart by, as a share of the largest.
ROUNDING = 2.0**-22
#: How many times as much is allowed between a compiled step and the step as it is written: other kernels.
COMPILED = 5.0
#: How many times the difference of two calls a repeat may be apart.
NOISE = 4.0


class Moment(NamedTuple):
    """A lane as a step begins or leaves it; every tensor is a copy."""

    tensors: dict[str, Tensor]
    terms: dict[str, Tensor]  # () float32; empty before a step
    scale: dict[str, Any]
    rng: dict[str, Tensor]

    @classmethod
    def of(cls, lane: Lane, terms: Mapping[str, Tensor] | None = None) -> Moment:
        """The present one."""
        copies = {name: tensor.detach().clone() for name, tensor in named(lane)}
        return cls(copies, dict(terms or {}), lane.scaler.state_dict(), dict(lane.rng))

    @torch.no_grad()
    def put_back(self, lane: Lane) -> None:
        """The lane is again as it was, in its own memory; it has no gradients."""
        for name, tensor in named(lane):
            tensor.copy_(self.tensors[name])
        lane.scaler.load_state_dict(self.scale)
        lane.rng = dict(self.rng)
        lane.optimizer.zero_grad(set_to_none=True)


def named(lane: Lane) -> Iterator[tuple[str, Tensor]]:
    """Everything that a step changes and that is not read by the host: weights, buffers, averages, momenta."""
    for whose, module in (("the student's", lane.student), ("the method's", lane.method)):
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            yield f"{whose} {name}", tensor
    if lane.average is not None:
        yield from ((f"the average's {name}", tensor) for name, tensor in lane.average.state.items())
    for number, state in enumerate(lane.optimizer.state.values()):
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield f"{name} {number}", value


def difference(
    before: Moment, repeated: Moment, called: Moment, again: Moment, precision: str, slack: float = 1.0
) -> str:
    """How a repeated step differs from the called one by more than two calls differ, in words; "" where it does not.

    ``slack``: how many times ``FLOOR`` is allowed.
    """
    floor = slack * FLOOR[precision]
    if repeated.terms.keys() != called.terms.keys():
        return f"it has the terms {', '.join(repeated.terms)}, and the step {', '.join(called.terms)}"
    for name, value in called.terms.items():
        if why := _apart(torch.zeros_like(value), repeated.terms[name], value, again.terms[name], floor):
            return f"the term {name!r} {why}"
    for name, value in called.tensors.items():
        if why := _apart(before.tensors[name], repeated.tensors[name], value, again.tensors[name], floor):
            return f"{name} {why}"
    if repeated.scale != called.scale and called.scale == again.scale:
        return f"its loss scale is {repeated.scale.get('scale')}, and the step's {called.scale.get('scale')}"
    for name, state in called.rng.items():
        if not torch.equal(repeated.rng[name], state) and torch.equal(again.rng[name], state):
            return "it draws another number of random numbers"
    return ""


def _apart(before: Tensor, repeated: Tensor, called: Tensor, again: Tensor, floor: float) -> str:
    """Of one tensor, in words; "" where it is near enough."""
    if not called.is_floating_point():
        same = torch.equal(repeated, called) or not torch.equal(again, called)
        return "" if same else "has other whole numbers"
    if not called.numel():
        return ""
    finite = called.isfinite()
    if not torch.equal(repeated.isfinite(), finite):
        return "" if not torch.equal(again.isfinite(), finite) else "is not finite in the same places"
    values = [torch.where(finite, one, 0).double() for one in (before, repeated, called, again)]
    apart, noise, change, largest = torch.stack(
        [
            (values[1] - values[2]).abs().max(),
            (values[2] - values[3]).abs().max(),
            (values[2] - values[0]).abs().max().nan_to_num(0.0, 0.0),
            values[2].abs().max(),
        ]
    ).tolist()
    if apart <= NOISE * noise + floor * change + ROUNDING * largest:
        return ""
    return (
        f"differs by {apart:.1e} from that of the step, which changes it by {change:.1e}; two calls of the step differ"
        f" by {noise:.1e}"
    )


def due(epochs: int) -> bool:
    """Whether a capture is looked at after so many epochs with it: at once, then after 1, 2, 4, 8, ..."""
    return epochs & (epochs - 1) == 0


def share(epochs: int, steps: int, sizes: int, slower: float = 3.0) -> float:
    """Part of a run's time that looking takes: ``steps`` an epoch, batches of so many sizes.

    For each size one repeat and two calls, a call being so many times ``slower`` than a repeat.
    """
    looks = sum(due(epoch) for epoch in range(epochs))
    return looks * sizes * (1 + 2 * slower) / (epochs * steps)
