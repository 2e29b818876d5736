"""Small pieces that several methods share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods._products import matmul


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


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, K) log-probabilities each -> (B,), KL(teacher || student) of each row.

    Both sides may carry a gradient: it is 0, not NaN, where a probability of the teacher underflows.
    """
    return (teacher.exp() * (teacher - student)).sum(dim=1)


def at_class(of: Tensor, z: Tensor) -> Tensor:
    """Classes (B,) and logits (B, K) -> the (B, K) mask that is True at each row's class.

    >>> at_class(torch.tensor([1]), torch.zeros(1, 3)).tolist()
    [[False, True, False]]
    """
    return of[:, None] == torch.arange(z.shape[1], device=z.device)


def ramp(progress: Tensor, warmup: float) -> Tensor | float:
    """min(progress / warmup, 1), by which losses grow over the first share ``warmup`` of the training; 1 without one.

    >>> ramp(torch.tensor(0.25), 0.5), ramp(torch.tensor(0.25), 0)
    (tensor(0.5000), 1.0)
    """
    return (progress / warmup).clamp(max=1) if warmup else 1.0


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


def mse(a: Tensor, b: Tensor) -> Tensor:
    """(B, C, H, W) each -> (), the mean of squared differences.

    As ``F.mse_loss``, whose gradient has not the layout of channels-last maps: what goes backward after it would mix
    two.
    """
    return F.mse_loss(a, b) if a.is_contiguous() else F.mse_loss(a.movedim(1, -1), b.movedim(1, -1))


def mean_square(x: Tensor, dims: tuple[int, ...], other: Tensor | None = None) -> Tensor:
    """Maps (B, C, H, W) -> the mean of x^2, or of (x - other)^2, over ``dims`` of (B, H, W, C).

    The same numbers as ``x.square().mean()``, in fp32 at least, for a third of the memory traffic: backward is one
    product, in the layout of the maps and in the dtypes of the inputs.

    >>> mean_square(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1), (3,))
    tensor([[[2.5000]]])
    """
    mean: Tensor = _MeanSquare.apply(x, other, dims)
    return mean


class _MeanSquare(torch.autograd.Function):
    """Keeps its inputs alone and takes the difference again backward, so that it can be differentiated twice."""

    generate_vmap_rule = True

    @staticmethod
    def difference(x: Tensor, other: Tensor | None) -> Tensor:
        """(B, H, W, C), in fp32 at least."""
        wide = x.movedim(1, -1).to(torch.promote_types(x.dtype, torch.float32))
        return wide if other is None else wide - other.movedim(1, -1)

    @staticmethod
    def forward(x: Tensor, other: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        return _MeanSquare.difference(x, other).square().mean(dim=dims)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, other, ctx.dims = inputs
        ctx.save_for_backward(x, other)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, other = ctx.saved_tensors
        difference = _MeanSquare.difference(x, other)
        for dim in sorted(dim % 4 for dim in ctx.dims):
            grad = grad.unsqueeze(dim)
        slope = (difference * (2 * (grad / (difference.numel() // grad.numel())))).movedim(-1, 1)
        return (
            slope.to(x.dtype) if ctx.needs_input_grad[0] else None,
            -slope.to(other.dtype) if ctx.needs_input_grad[1] else None,
            None,
        )


def gram(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), inner products of the rows; its gradient is one matrix product, not two."""
    half = matmul(x, x.detach().T)
    return half + half.T - half.detach()
