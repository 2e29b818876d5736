"""Corruptions of uint8 images, the same ones for every network: what an image gets follows from its place and a seed.

Kinds and strengths at five levels are those of CIFAR-10-C and CIFAR-100-C, for images of 32 pixels; blur grows with
larger ones (Hendrycks and Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.
ICLR 2019. https://arxiv.org/abs/1903.12261). Occlusion, which they have not, is a grey square.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from kdbench.data import noise
from kdbench.utils.seeding import stable_seed

LEVELS = 5
#: The strength of each kind at levels 1 to 5.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # deviation, of pixels in [0, 1]
    "salt_and_pepper": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of the values that become 0 or 255
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # deviation in pixels of an image of 32
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor of the distance from the image's mean
    "jpeg": (80, 65, 58, 50, 40),  # quality
    "occlusion": (0.125, 0.25, 0.375, 0.5, 0.625),  # side of the square, as a share of the image's
}


def corrupt(images: Tensor, kind: str, level: int, *, seed: int = 0, first: int = 0) -> Tensor:
    """Images (N, 3, H, W) uint8, corrupted; level 0 leaves them as they are.

    An image has the same noise, and its square the same middle, at every level: curves differ by the strength alone.

    Args:
        images: (N, 3, H, W) uint8.
        kind: one of ``STRENGTHS``.
        level: 0 to ``LEVELS``.
        seed: of what is drawn.
        first: place of the first image in its data set; what is drawn depends on it, not on the batches.

    Raises:
        ValueError: no such kind or level, or images of another type.

    >>> grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    >>> bool((corrupt(grey, "gaussian_noise", 0) == grey).all())
    True
    >>> int((corrupt(grey, "occlusion", 4) == 128).sum()) // 3  # a square of 2 x 2
    4
    """
    if kind not in STRENGTHS:
        raise ValueError(f"no corruption {kind!r}; there are {', '.join(STRENGTHS)}")
    if not 0 <= level <= LEVELS:
        raise ValueError(f"a corruption has levels 0 to {LEVELS}, not {level}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"(N, 3, H, W) uint8 images are corrupted, not {tuple(images.shape)} {images.dtype}")
    if not level:
        return images
    strength = STRENGTHS[kind][level - 1]
    return _KINDS[kind](images, strength, [stable_seed(seed, kind, first + at) for at in range(len(images))])


def _drawn(images: Tensor, seeds: list[int], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """(N, ...) of what each image draws with a generator of its own."""
    return torch.stack([draw(torch.Generator().manual_seed(seed)) for seed in seeds])


def _blur(images: Tensor, deviation: float, seeds: list[int]) -> Tensor:
    deviation *= max(1.0, images.shape[-1] / 32)
    reach = min(max(1, math.ceil(3 * deviation)), min(images.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur(images, [2 * reach + 1] * 2, [deviation] * 2)
    return blurred


def _contrast(images: Tensor, factor: float, seeds: list[int]) -> Tensor:
    wide = images.double()
    mean = wide.mean(dim=(2, 3), keepdim=True)
    return ((wide - mean) * factor + mean).round().clamp(0, 255).to(torch.uint8)


def _jpeg(images: Tensor, quality: float, seeds: list[int]) -> Tensor:
    made = []
    for image in images.permute(0, 2, 3, 1).numpy():
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "JPEG", quality=int(quality))
            made.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))))
    return torch.stack(made).permute(0, 3, 1, 2).contiguous()


def _occlusion(images: Tensor, share: float, seeds: list[int]) -> Tensor:
    height, width = images.shape[-2:]
    side = max(1, round(share * min(height, width)))
    middles = _drawn(images, seeds, lambda generator: torch.rand(2, generator=generator))
    hidden = images.clone()
    for image, (down, right) in zip(hidden, middles.tolist(), strict=True):
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        image[:, top : top + side, left : left + side] = 128
    return hidden


_KINDS: dict[str, Callable[[Tensor, float, list[int]], Tensor]] = {
    "gaussian_noise": noise.gaussian,
    "salt_and_pepper": noise.salt_and_pepper,
    "blur": _blur,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "occlusion": _occlusion,
}
