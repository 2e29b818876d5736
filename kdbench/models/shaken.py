"""A fresh network hides its mistakes; for a trial its norms are given statistics as after some training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Largest step that a trial takes away from a fresh value, of which norms' scales are 1 and shifts 0.
_STEP = 0.3


@contextmanager
def shaken(net: nn.Module) -> Iterator[None]:
    """Inside, what is the same all over a fresh network differs by channel; after, every bit is as before.

    Shaken are running means and variances, every vector among the parameters (scales, shifts, biases, gains) and
    whatever begins at zero (a head, often). Draws no random number.

    >>> norm = nn.BatchNorm2d(4)
    >>> with shaken(norm):
    ...     bool((norm.weight == 1).all())
    False
    >>> bool((norm.weight == 1).all())
    True
    """
    generator = torch.Generator().manual_seed(0)
    before: list[tuple[Tensor, Tensor]] = []

    def noise(value: Tensor) -> Tensor:
        """Uniform in [-1, 1]."""
        return (2 * torch.rand(value.shape, generator=generator) - 1).to(value)

    def keep(value: Tensor) -> Tensor:
        before.append((value, value.clone()))
        return value

    try:
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                if name.endswith("running_mean"):
                    keep(buffer).add_(noise(buffer), alpha=_STEP)
                elif name.endswith("running_var"):
                    keep(buffer).mul_(1 + noise(buffer) / 2)
            for parameter in net.parameters():
                if parameter.is_floating_point() and (parameter.dim() <= 1 or bool((parameter == 0).all())):
                    keep(parameter).add_(noise(parameter), alpha=_STEP if parameter.dim() <= 1 else _STEP / 10)
            yield
    finally:
        with torch.no_grad():
            for value, kept in before:
                value.copy_(kept)
