"""Floating-point operations of a piece of code, and the speed that the machine can reach at best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.bench.clock import timed


def count(work: Callable[[], object]) -> int:
    """FLOP of products and convolutions, forward and backward; a multiply-add is two.

    torch's own formula for the backward pass of a convolution leaves out its groups, which
    makes a depthwise one dozens of times too dear.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward})
    with counter:
        work()
    return int(counter.get_total_flops())


def _backward(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    out_shape: Any = None,
    **_: Any,
) -> int:
    """Each of the two gradients, where it is wanted, costs what the forward pass does."""
    # A weight is (C_out, C_in / groups, k, k), transposed (C_in, C_out / groups, k, k): per position of
    # the smaller-channelled side of the sum, all of it is used once.
    positions = math.prod(x_shape[2:]) if transposed else math.prod(grad_shape[2:])
    once = 2 * grad_shape[0] * positions * math.prod(w_shape)
    return once * (bool(output_mask[0]) + bool(output_mask[1]))


def peak_gflops(device: torch.device, dtype: torch.dtype, repeat: int = 5) -> float:
    """Best GFLOP/s of a square matrix product."""
    side = 1536 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    best = min(timed(lambda: torch.mm(a, b, out=out), device).cost for _ in range(repeat + 1))
    return 2 * side**3 / best / 1e9


def peak_copy(device: torch.device, repeat: int = 5) -> float:
    """Best GB/s of a copy, read and written bytes counted."""
    size = 2**27 if device.type == "cpu" else 2**31
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device).cost for _ in range(repeat + 1))
    return 2 * size / best / 1e9
