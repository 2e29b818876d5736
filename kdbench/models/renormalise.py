"""Images normalised for one network, shown to another in its own terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Normalisation(NamedTuple):
    """What is taken off a pixel in [0, 1] and what it is divided by, per channel.

    >>> Normalisation.of([0, 0, 0], [1, 1, 1]).std
    (1.0, 1.0, 1.0)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """From any two sequences.

        Raises:
            ValueError: they differ in length, or a std is not above 0.
        """
        made = cls(tuple(map(float, mean)), tuple(map(float, std)))
        if len(made.mean) != len(made.std) or not all(0 < s < float("inf") for s in made.std):
            raise ValueError(
                f"a normalisation is one mean and one std above 0 per channel, not {made.mean}, {made.std}"
            )
        return made


class Renormalise(nn.Module):
    """(B, C, H, W) normalised as ``given`` -> the same pixels normalised as ``own``: one affine per channel.

    Its two buffers are in the ``state_dict()`` of the network that holds it: other terms are other answers.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, given: Normalisation, own: Normalisation) -> None:
        super().__init__()
        # (2, C, 1, 1) each; in double, so that each number is rounded once.
        (mean, std), (own_mean, own_std) = (torch.tensor(n, dtype=torch.float64)[..., None, None] for n in (given, own))
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, dtype and memory format."""
        return images * self.scale.to(images.dtype) + self.shift.to(images.dtype)


def renormalise(
    images: Tensor,
    from_mean: Sequence[float],
    from_std: Sequence[float],
    to_mean: Sequence[float],
    to_std: Sequence[float],
) -> Tensor:
    """Images (B, C, H, W) in other terms; the very same tensor where the terms are equal."""
    given, own = Normalisation.of(from_mean, from_std), Normalisation.of(to_mean, to_std)
    return images if given == own else Renormalise(given, own).to(images.device)(images)
