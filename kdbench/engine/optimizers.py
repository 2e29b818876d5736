"""Optimizers by name: torch's SGD, or any of timm's that a checkpoint can bring back to the bit.

SGD is the default and decays every weight, as the distillation papers do. Any other follows timm's custom: biases and
norms, all that has one dimension, are not decayed.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.engine.checkpoint import stranger
from kdbench.engine.errors import said

SGD = "sgd"


def make(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """One of timm's optimizers.

    Raises:
        ValueError: there is none of this name, or it cannot be brought back from a checkpoint.
    """
    prove(name)
    return _made(name, list(parameters), lr, momentum, weight_decay)


@cache
def prove(name: str) -> None:
    """Train a few weights with it, alone, beside another, and from a checkpoint: all must end the same.

    Raises:
        ValueError: what is against it, in a sentence.

    >>> prove("adamw")
    >>> prove("adamv")
    Traceback (most recent call last):
    ValueError: timm has no optimizer 'adamv'; did you mean ...
    """
    if name == SGD:
        return
    from timm import optim

    known = [str(one) for one in optim.list_optimizers()]  # type: ignore[attr-defined]
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        more = f"did you mean {' or '.join(near)}?" if near else "sgd, adamw and lamb are among those of timm"
        raise ValueError(f"timm has no optimizer {name!r}; {more}")
    before = _drawn()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            why = _trial(name)
    except Exception as error:  # a package that is not installed; gradients of gradients
        why = f"does not train here: {said(error)}"
    finally:
        drew = before != _drawn()
    if drew:
        why = "draws random numbers that a checkpoint does not keep"
    if why:
        raise ValueError(f"the optimizer {name} {why}; take sgd, adamw or lamb")


def _drawn() -> tuple[object, object]:
    """Where the random numbers of Python and numpy stand."""
    return random.getstate(), str(np.random.get_state())


def _trial(name: str) -> str:
    whole = _Trial(name)
    for step in range(4):
        whole.step(step)
    if getattr(whole.optimizer, "is_second_order", False):
        return "needs gradients of gradients, which methods do not give"
    if not all(bool(one.isfinite().all()) for one in whole.weights):
        return "leaves the numbers within four steps of a small problem"
    one, beside = _Trial(name), _Trial(name)
    for step in range(2):
        one.step(step)
        beside.step(3 - step)
    state = one.optimizer.state_dict()
    if what := stranger(state):
        return f"keeps {what}, which no checkpoint can hold"
    for weight, own in zip(one.weights, (one.optimizer.state[w] for w in one.weights), strict=True):
        if any(isinstance(v, Tensor) and v.ndim and v.shape != weight.shape for v in own.values()):
            return "keeps tensors of other shapes than the weights', which cannot be checked when a run goes on"
    other = _Trial(name)
    with torch.no_grad():
        for ours, theirs in zip(other.weights, one.weights, strict=True):
            ours.copy_(theirs)
    resume(other.optimizer, copy.deepcopy(state))
    for step in range(2, 4):
        other.step(step)
    same = all(torch.equal(ours, theirs) for ours, theirs in zip(other.weights, whole.weights, strict=True))
    return "" if same else "does not go on from its state as it would have without a stop"


class _Trial:
    """Three small weights under training; the same ones each time."""

    def __init__(self, name: str) -> None:
        draw = torch.Generator().manual_seed(1)
        shapes = (64, 48), (5,), (2, 3, 3, 3)  # the first is large enough for those that keep rows and columns
        self.weights = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
        self.optimizer = _made(name, self.weights, 0.01, 0.9, 1e-4)

    def step(self, number: int) -> None:
        draw = torch.Generator().manual_seed(100 + number)
        for weight in self.weights:
            weight.grad = torch.randn(weight.shape, generator=draw)
        self.optimizer.step()


def resume(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from the ``state_dict`` of another: momenta are those of the other, how to step is the optimizer's own.

    Some count their steps in the groups of parameters, which a fresh one does not have yet: that is taken over.
    """
    groups = optimizer.state_dict()["param_groups"]
    kept = state.get("param_groups")
    if isinstance(kept, list) and len(kept) == len(groups):
        for own, its in zip(groups, kept, strict=True):
            own |= {key: value for key, value in its.items() if key not in own and _is_number(value)}
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and not value.ndim)


def _made(
    name: str, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    from timm import optim

    groups: list[dict[str, Any]] = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    made: torch.optim.Optimizer = optim.create_optimizer_v2(  # type: ignore[attr-defined]
        [group for group in groups if group["params"]], opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum
    )
    return made
