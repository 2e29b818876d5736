"""Which images come in which order, and which view of each: what data, engine and teacher tables hand each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from torch import Tensor


class BatchPlan(NamedTuple):
    """All draws of one epoch, (N,) each, or the part of them that makes a batch, (B,) each.

    The view of image ``order[k]`` is its padded picture cut at row ``row[k]`` and column
    ``column[k]``, both in [0, 2 * crop_padding], then mirrored where ``flip[k]``.

    >>> import torch
    >>> corner, flip = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    >>> epoch = BatchPlan(torch.tensor([2, 0, 1]), corner, corner, flip)
    >>> epoch.part(0, 2).order
    tensor([2, 0])
    """

    order: Tensor  # int64, positions in the training set
    row: Tensor  # int64
    column: Tensor  # int64
    flip: Tensor  # bool

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The plan with ``change`` applied to every one of its tensors."""
        return type(self)(*map(change, self))

    def part(self, first: int, end: int) -> Self:
        """What comes from place ``first`` up to ``end``."""
        return self.each(lambda drawn: drawn[first:end])
