"""Steps that leave no trace: a lane is tried out and put back, tensor by tensor in its own memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from kdbench.engine.lane import Lane
from kdbench.engine.schedule import fill_momentum
from kdbench.engine.torch_private import MODULE_ATTRIBUTES, own_tensors

Held = dict[tuple[str, str], tuple[dict[str, Any], Any]]


@contextmanager
def undone(lane: Lane) -> Iterator[list[str]]:
    """Whatever steps the lane makes inside are undone at the end; only its momenta are then there, as zeros.

    The loss scale, too, is put back in its own memory.

    Yields:
        a list that holds, after the end, the names of what the steps did not change in place but
        replaced by another object. What a method adds to a list or dict of its own is not seen.
    """
    fill_momentum(lane.optimizer)
    averaged = {} if lane.average is None else lane.average.state
    waiting, averaged = lane.waiting, {name: value.clone() for name, value in averaged.items()}
    steps = None if isinstance(lane.optimizer, torch.optim.SGD) else copy.deepcopy(lane.optimizer.state_dict())
    changing, rng, held, scale = _tensors(lane), lane.rng, _held(lane), lane.scaler.state_dict()
    kept = [tensor.detach().clone() for tensor in changing]
    replaced: list[str] = []
    try:
        yield replaced
    finally:
        lane.rng = rng
        lane.scaler.load_state_dict(scale)
        replaced += _put_back(held, _held(lane))
        lane.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, value in zip(changing, kept, strict=True):
                tensor.copy_(value)
        if steps is not None:
            lane.optimizer.load_state_dict(steps)
        if lane.average is not None:
            lane.average.load(averaged)
        lane.waiting = waiting


def _tensors(lane: Lane) -> list[Tensor]:
    """Everything that a step changes: weights, buffers, momenta."""
    own = [part for module in (lane.student, lane.method) for part in chain(module.parameters(), module.buffers())]
    momenta = (value for state in lane.optimizer.state.values() for value in state.values())
    return own + [value for value in momenta if isinstance(value, Tensor)]


def _held(lane: Lane) -> Held:
    """What the lane's modules hold, by (module, name): the dict that it lies in, and the value."""
    found: Held = {}
    for root, module in (("the student's", lane.student), ("the method's", lane.method)):
        for path, part in module.named_modules():
            plain = {name: value for name, value in vars(part).items() if name not in MODULE_ATTRIBUTES}
            own = *((kept, kept) for kept in own_tensors(part)), (vars(part), plain)
            for where, values in own:
                found |= {(f"{root} {path}".rstrip(), name): (where, value) for name, value in values.items()}
    return found


def _put_back(before: Held, after: Held) -> list[str]:
    """Make modules hold again what they held before; names of what had been replaced."""
    replaced = []
    for key, (where, value) in after.items():
        if key in before and _same(value, before[key][1]):
            continue
        module, name = key
        replaced.append(f"{module} {name}")
        if key in before:
            where[name] = before[key][1]
        else:
            del where[name]
    return replaced


def _same(value: object, old: object) -> bool:
    if isinstance(value, int | float | str):
        return type(value) is type(old) and value == old
    return value is old
