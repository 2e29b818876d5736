"""The check of the conformance kit that turns the weights."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

from torch import Tensor

from kdbench.distiller import Distiller
from kdbench.testing.toys import TOYS, Problem, Toy, candidates, differing, require, served
from kdbench.testing.trainee import Trainee

_COMMON = {"ce_weight": (0.25, 0.75), "kd_weight": (0.25, 0.75)}


def check_hyperparameters_do_something(cls: type[Distiller], toys: Sequence[Toy] = TOYS) -> None:
    """Weights of CE and KD, and what tuning scales, change what is built or lost; no hyper-parameter is unread.

    >>> class Mine(Distiller):
    ...     def __init__(self, pair, *, beta=1.0, **common):
    ...         super().__init__(pair, **common)
    ...         self.beta = beta
    ...     def terms(self, student, teacher, batch):
    ...         return {"match": (student.pooled.mean() - teacher.pooled.mean()) ** 2}
    >>> check_hyperparameters_do_something(Mine)
    Traceback (most recent call last):
    kdbench.testing.toys.Broken: nothing that is built or lost changes with beta, which tuning scales; use it in ...
    """
    unread = [name for part in cls.components() for name in _unread(part)]
    require(not unread, f"__init__ takes {', '.join(unread)} and never reads it; use it, or leave it out")
    known = cls.hyperparameters()
    idle = {name for name in _COMMON if name in known}
    tried = [values for values in candidates(cls) if values]
    scaled = bool(tried)
    for toy in served(cls, toys):
        problem = Problem(toy)
        for name in sorted(idle):
            found = [_looked(problem, cls, {name: value}) for value in _COMMON[name]]
            idle -= {name} if None not in found and differing(*found) else set()  # type: ignore[arg-type]
        shown = [one for one in (_looked(problem, cls, values) for values in tried) if one is not None]
        scaled = scaled and not any(differing(shown[0], one) for one in shown[1:])
    require(
        not idle,
        f"the loss does not change with {', '.join(sorted(idle))}; call super().__init__(pair, **common), and leave"
        " cross-entropy and KD to the base class's loss",
    )
    names = ", ".join(tried[0]) if tried else ""
    require(
        not scaled,
        f"nothing that is built or lost changes with {names}, which tuning scales; use it in `terms`, name another"
        " weight in `main_weight`, or say `search = {}`",
    )


def _looked(problem: Problem, cls: type[Distiller], hyper: dict[str, Any]) -> dict[str, Tensor] | None:
    """What is built, and the terms of every stage in its middle; None: such values are refused."""
    try:
        trainee = Trainee(problem, cls, hyper=hyper)
    except ValueError:
        return None
    found = trainee.everything()
    for stage in trainee.stages:
        trainee.enter(stage)
        found |= {f"{stage} {name}": term.detach() for name, term in trainee.terms(trainee.some_batch()).items()}
    return found


def _unread(cls: type[Distiller]) -> Iterator[str]:
    """Keywords of the class's own ``__init__`` that its code never mentions."""
    init = vars(cls).get("__init__")
    code = getattr(init, "__code__", None)
    if not isinstance(code, CodeType) or "locals" in code.co_names or hasattr(init, "__wrapped__"):
        return
    read = {*code.co_cellvars}
    for step in dis.get_instructions(code):
        if step.opname.startswith("LOAD"):
            read |= set(step.argval) if isinstance(step.argval, tuple) else {step.argval}
    for name, parameter in inspect.signature(init).parameters.items():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and name not in read:
            yield name
