"""The telling methods: one at least of each kind that the engine treats differently.

A test that asks the ENGINE something of every method - that it resumes, captures, compiles - asks it in the fast suite
of these, and of all others with the slow tests: the engine knows a method by what is said here alone, so two methods of
one kind go the same way through it. What is asked of a METHOD - its formula, its contract, its refusals - is asked of all.

Nothing is listed: the kinds are read off the classes, and a new method of a new kind comes in by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from kdbench import Distiller, registry
from kdbench.testing.toys import TWIN, Problem, seeded

#: What a class may write anew, of the contract.
_WRITTEN = ("loss", "terms", "transform", "pretrain_terms", "on_stage", "predict", "train")
_SAID = (
    *("needs_teacher", "needs_hard_labels", "own_cross_entropy", "pretrain_student", "reads"),
    *("pretrain_epochs", "pretrain_lr", "pretrain_drops", "assistant", "attention_modules", "absorbs", "roles"),
)


@cache
def _problem() -> Problem:
    return Problem(TWIN)


def kinds(cls: type[Distiller]) -> Iterator[str]:
    """What the engine, the guard, the graphs and the checkpoints can see of a method, one word for each.

    Whoever refuses the toy pair is known by its class alone.
    """
    for name in _SAID:
        value = getattr(cls, name)
        yield f"{name}={value}" if isinstance(value, bool | str) else f"{name}: {bool(value)}"
    yield f"{len(cls.views)} views: {'randaugment' in cls.views}"
    yield f"a student of its own: {cls.modifies_student()}"
    yield f"family {cls.family}"
    yield from (f"own {name}" for name in _WRITTEN if getattr(cls, name) is not getattr(Distiller, name))
    with seeded(0):
        try:
            method = cls.build(_problem().pair)
        except ValueError:
            yield "refuses the toy pair"
        else:
            yield from _seen(method, cls)


def _seen(method: Distiller, cls: type[Distiller]) -> Iterator[str]:
    """By its tensors, and by what one call of each loss does."""
    kept, rows = set(method.state_dict()), _problem().pair.num_train
    for name, buffer in method.named_buffers():
        if name.rpartition(".")[2] not in ("running_mean", "running_var", "num_batches_tracked"):
            saved = "saved" if name in kept else "constant"
            yield f"{saved} buffer of {'every image' if buffer.dim() and len(buffer) == rows else 'its own'}"
    trained = [parameter.requires_grad for parameter in method.parameters()]
    yield f"parameters: {bool(trained)}, frozen ones: {not all(trained)}"
    yield f"batch norms: {any(isinstance(one, nn.BatchNorm2d) for one in method.modules())}"
    problem = _problem()
    batch = next(problem.batches(0, 1, 1 + len(cls.views)))
    shown = problem.show(batch.image)
    for stage in ("pretrain", "train") if cls.pretrain_epochs else ("train",):
        method.on_stage(stage)
        before = {name: value.clone() for name, value in method.state_dict().items()}
        numbers = torch.get_rng_state()
        (method.loss if stage == "train" else method.pretrain_terms)(shown, shown, batch)
        yield f"draws in {stage}: {not torch.equal(numbers, torch.get_rng_state())}"
        changed = [name for name, value in method.state_dict().items() if not torch.equal(value, before[name])]
        yield f"keeps something of every batch: {bool(changed)}"


def cover(kinds_of: dict[str, frozenset[str]]) -> list[str]:
    """As few as may be that have every kind among them; those with most of what is still missing come first.

    >>> cover({"a": frozenset("x"), "b": frozenset("xy"), "c": frozenset("z")})
    ['b', 'c']
    """
    missing, chosen = set().union(*kinds_of.values()), list[str]()
    while missing:
        name = min(kinds_of, key=lambda one: (-len(kinds_of[one] & missing), one))
        chosen.append(name)
        missing -= kinds_of[name]
    return sorted(chosen)


@cache
def telling() -> frozenset[str]:
    """The names of the telling methods."""
    return frozenset(cover({name: frozenset(kinds(registry.get(name))) for name in registry.names()}))


def fast(names: Sequence[str]) -> list[Any]:
    """Parameters of a test of the engine: the telling methods, the plainest and combinations; others are slow."""
    quick = {"student", "kd", *telling()} | {name for name in names if "+" in name}
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def thinned(*values: Sequence[Any]) -> list[Any]:
    """All products of these values as parameters, of which the fast suite tries every value once at least.

    >>> [one.values for one in thinned("abc", "xy") if not one.marks]
    [('a', 'x'), ('b', 'y'), ('c', 'x')]
    """
    longest = max(map(len, values))
    quick = [tuple(one[at % len(one)] for one in values) for at in range(longest)]
    return [pytest.param(*row, marks=() if row in quick else pytest.mark.slow) for row in product(*values)]
