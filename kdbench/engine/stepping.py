"""From a loss to new weights: gradients of one batch or of several, clipped, a step, the average moved."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdbench.distiller import Distiller
from kdbench.engine.averaging import Average
from kdbench.engine.errors import Failed
from kdbench.engine.optimizers import SGD
from kdbench.engine.precision import Scaler
from kdbench.engine.schedule import Plan


class Lane(Protocol):
    """What is set or asked of a lane; ``engine.lane`` has it, and imports this file."""

    plan: Plan
    optimizer: torch.optim.Optimizer
    scaler: Scaler
    average: Average | None
    waiting: int
    compiled: Any
    method: Distiller


def by_host(plan: Plan) -> str:
    """Why the steps of a plan cannot be repeated without the host; "": they can.

    >>> by_host(Plan(240, 0.05)), by_host(Plan(240, 0.05, accumulate=2))
    ('', 'the gradients of several batches make one of its steps')
    """
    if plan.accumulate > 1:
        return "the gradients of several batches make one of its steps"
    return "" if plan.optimizer_name == SGD else f"the optimizer {plan.optimizer_name} counts its steps on the host"


def begin(lane: Lane) -> None:
    """A stage begins: no gradient waits, and the average is the student as it is."""
    lane.waiting = 0
    if lane.average is not None:
        lane.average.begin()


def check(lane: Lane) -> None:
    """Everything of the method that requires a gradient is trained.

    Raises:
        Failed: something was made, or asked for a gradient, after the optimizer of its stage.

    >>> from kdbench.testing.examples import lanes
    >>> check(*lanes("kd"))
    """
    trained = {id(p) for group in lane.optimizer.param_groups for p in group["params"]}
    late = [name for name, p in lane.method.named_parameters() if p.requires_grad and id(p) not in trained]
    if late:
        raise Failed(
            f"the method made {late[0]} after its stage began, or asked for its gradient then, and nothing trains it;"
            " make parameters in __init__"
        )


def averaged(lane: Lane) -> dict[str, Tensor]:
    """The averaged weights that are kept beside a student; none where none are asked for."""
    return {} if lane.average is None else lane.average.state


def backward(lane: Lane, total: Tensor) -> None:
    """The gradients of a batch's loss, (), and the step that is due after it."""
    each = lane.plan.accumulate
    if not lane.waiting:
        lane.optimizer.zero_grad(set_to_none=True)
    lane.scaler.scale(total / each if each > 1 else total).backward()
    lane.waiting += 1
    if lane.compiled is not None:
        lane.compiled.drop_unreached()
    if lane.waiting == each:
        apply(lane)


def apply(lane: Lane) -> None:
    """A step of the optimizer with the gradients that wait; fewer than a step's weigh as if they were all."""
    trained = [parameter for group in lane.optimizer.param_groups for parameter in group["params"]]
    if lane.waiting != lane.plan.accumulate:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.mul_(lane.plan.accumulate / lane.waiting)
    lane.waiting = 0
    if lane.plan.clip_grad:
        lane.scaler.unscale(lane.optimizer)
        nn.utils.clip_grad_norm_(trained, lane.plan.clip_grad)
    lane.scaler.step(lane.optimizer)
    if lane.average is not None:
        lane.average.update()
