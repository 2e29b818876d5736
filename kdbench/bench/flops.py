"""Floating-point operations of a piece of code, and the speed that the machine can reach at best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.bench.clock import timed

#: Seconds of the shortest span in which the peak is measured.
LONG = 0.2
#: Sides of the matrices and channels of the maps with which it is measured.
SIDES = {"cpu": (512, 1024, 1536, 2048), "gpu": (4096, 8192, 16384)}
CHANNELS = {"cpu": (64, 256), "gpu": (512, 2048)}


def count(work: Callable[[], object]) -> int:
    """FLOP of products and convolutions, forward and backward; a multiply-add is two.

    torch's own formula for the backward pass of a convolution leaves out its groups, which
    makes a depthwise one dozens of times too dear.

    >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
    >>> count(lambda: a @ b)  # 2 x 3 x 4 multiply-adds
    48
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


def peak_gflops(device: torch.device, dtype: torch.dtype, repeat: int = 3) -> float:
    """Best GFLOP/s of square matrix products and of 3x3 convolutions, of several sizes.

    No size and no library is the best everywhere: what convolutions reach, products may not. Each is done for so long
    that starting it takes nothing.
    """
    kind = "cpu" if device.type == "cpu" else "gpu"
    works = [_product(side, device, dtype) for side in SIDES[kind]]
    works += [_convolution(channels, device, dtype) for channels in CHANNELS[kind]]
    return max(flop / _seconds(work, device, repeat) for work, flop in works) / 1e9


def _product(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A product of two square matrices, and its FLOP."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    return (lambda: torch.mm(a, b, out=out)), 2 * side**3


def _convolution(channels: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A convolution of 16 maps of 16 x 16, and its FLOP (none saved at the border)."""
    maps = torch.randn(16, channels, 18, 18, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    return (lambda: torch.conv2d(maps, weight)), 2 * 16 * 16**2 * 9 * channels**2


def _seconds(work: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Seconds that ``work`` takes once, at its best among ``repeat`` spans of at least ``LONG`` seconds."""
    times = 1
    spans: list[float] = []
    while len(spans) < repeat:
        seconds = timed(lambda n=times: [work() for _ in range(n)], device).cost  # type: ignore[misc]
        if seconds < LONG:
            times = max(2 * times, math.ceil(1.2 * times * LONG / max(seconds, LONG / 100)))
        else:
            spans.append(seconds / times)
    return min(spans)


def peak_copy(device: torch.device, repeat: int = 5) -> float:
    """Best GB/s of a copy, read and written bytes counted."""
    size = 2**27 if device.type == "cpu" else 2**31
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device).cost for _ in range(repeat + 1))
    return 2 * size / best / 1e9
