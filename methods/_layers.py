"""Small pieces that several methods share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
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


def pool(feat: Tensor, side: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *side), averages over equal or nearly equal windows."""
    h, w = feat.shape[2:]
    if (h, w) == side:
        return feat
    if h % side[0] == 0 and w % side[1] == 0:  # the same; adaptive pooling has no deterministic backward on CUDA
        return F.avg_pool2d(feat, (h // side[0], w // side[1]))
    return F.adaptive_avg_pool2d(feat, side)


def meet(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W) of any sides -> both, the larger pooled down to the side of the smaller."""
    side = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return pool(student, side), pool(teacher, side)


def rows(feat: Tensor) -> Tensor:
    """(B, C, ...) -> (B, ... C), one vector per image; without a copy where maps are channels-last, as in training."""
    return feat.movedim(1, -1).flatten(1)


def gram(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), inner products of the rows; its gradient is one matrix product, not two."""
    half = x @ x.detach().T
    return half + half.T - half.detach()
