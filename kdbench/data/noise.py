"""Noise on uint8 pictures: what a picture gets follows from a seed of its own, not from the batch it stands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gaussian(images: Tensor, deviation: float, seeds: Sequence[int]) -> Tensor:
    """(N, C, H, W) uint8 on the CPU with normal noise; ``deviation`` is of pixels in [0, 1], results are clipped.

    >>> grey = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    >>> gaussian(grey, 0.1, [0]).flatten().tolist()
    [139, 93, 44, 114]
    """
    noise = _drawn(seeds, lambda generator: torch.randn(images.shape[1:], generator=generator))
    return (images + 255 * deviation * noise).round().clamp(0, 255).to(torch.uint8)


def salt_and_pepper(images: Tensor, share: float, seeds: Sequence[int]) -> Tensor:
    """(N, C, H, W) uint8 on the CPU, of which a share of the values becomes 0 or 255, each as often as the other.

    >>> grey = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    >>> salt_and_pepper(grey, 0.5, [0]).flatten().tolist()
    [100, 255, 0, 0]
    """
    where = _drawn(seeds, lambda generator: torch.rand(images.shape[1:], generator=generator))
    salted = torch.where(where < share / 2, 0, images)
    return torch.where(where > 1 - share / 2, 255, salted).to(torch.uint8)


def _drawn(seeds: Sequence[int], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """(N, ...) of what each picture draws with a generator of its own."""
    return torch.stack([draw(torch.Generator().manual_seed(seed)) for seed in seeds])
