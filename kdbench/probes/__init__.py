"""What kept students are good for: one function for each probe, and ``kdbench probe`` for all that a run has kept.

>>> import torch
>>> from kdbench import probes
>>> probes.agreement(torch.eye(3), torch.eye(3), torch.arange(3)).agreement
100.0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.probes.alpha import attention
    from kdbench.probes.cka import similarity
    from kdbench.probes.expense import cost
    from kdbench.probes.fidelity import agreement
    from kdbench.probes.linear import transfer
    from kdbench.probes.reliability import calibration
    from kdbench.probes.robust import robustness
    from kdbench.probes.whole import finetune

__all__ = [
    "agreement",
    "attention",
    "calibration",
    "cost",
    "finetune",
    "robustness",
    "similarity",
    "transfer",
]

_HOMES = {
    "agreement": "fidelity",
    "attention": "alpha",
    "calibration": "reliability",
    "cost": "expense",
    "finetune": "whole",
    "robustness": "robust",
    "similarity": "cka",
    "transfer": "linear",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench.probes' has no attribute {name!r}")
    return getattr(import_module(f"kdbench.probes.{_HOMES[name]}"), name)
