"""Attention over stages (``Distiller.attention_modules``): which part of a method has it, and what of it is kept."""

from __future__ import annotations

from torch import Tensor

from kdbench.distiller import Distiller


def attending(method: Distiller) -> tuple[str, Distiller] | None:
    """The method, or the first part of a combination, that has an attention, with the prefix of its state's names.

    >>> from kdbench.testing.toys import TWIN, Problem
    >>> attending(Distiller(Problem(TWIN).pair)) is None
    True
    """
    for prefix, module in method.named_modules():
        if isinstance(module, Distiller) and module.attention_modules:
            return f"{prefix}." if prefix else "", module
    return None


def attention_state(method: Distiller) -> dict[str, Tensor]:
    """What of the method's state its attention reads, by its names there; empty where it has none.

    >>> from kdbench.testing.examples import lanes
    >>> kd, semckd = lanes("kd", "semckd")
    >>> attention_state(kd.method), {name.split(".")[0] for name in attention_state(semckd.method)} == {"query", "key"}
    ({}, True)
    """
    found = attending(method)
    if found is None:
        return {}
    prefix, part = found
    names = tuple(f"{prefix}{name}." for name in part.attention_modules)
    return {key: value for key, value in method.state_dict().items() if key.startswith(names)}
