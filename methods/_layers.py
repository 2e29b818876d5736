"""Small pieces that several methods share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: no autocast inside, and half-precision tensors arrive as float32 (float64 stays).

    For losses that subtract near-equal numbers, or whose products would be rounded to 8 bits.
    The first argument must be a tensor.
    """

    @wraps(function)
    def widened(*args: Any, **options: Any) -> Tensor:
        with torch.autocast(args[0].device.type, enabled=False):
            return function(*[_widen(arg) for arg in args], **options)

    return widened


def _widen(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
