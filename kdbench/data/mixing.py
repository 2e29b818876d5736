"""What is done to whole batches after they are normalised: random erasing, mixup and cutmix.

All draws are made on the CPU from a seed of their own, so a batch is the same on every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench.utils.draws import draw_seed, seed_all, unmoved


def erased(images: Tensor, idx: Tensor, key: int, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2020) as timm does it, with noise, of (B, C, H, W); changes and returns them."""
    from timm.data.random_erasing import RandomErasing

    made: Any = RandomErasing
    erase = made(probability, mode="pixel", device="cpu")
    with unmoved():
        for image, at in zip(images, idx.tolist(), strict=True):
            seed_all(draw_seed(key, "erase", at))
            erase(image)
    return images


def mixed(
    images: Tensor, label: Tensor, seed: int, *, mixup: float, cutmix: float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) of a batch with itself moved on by one image.

    Where both are asked for, one of the two is drawn for each batch, as in timm.

    Args:
        images: (B, C, H, W).
        label: (B,).
        seed: of the batch.
        mixup: alpha of its Beta distribution; 0: none.
        cutmix: the same.
        num_classes: K.

    Returns:
        images (B, C, H, W) and (B, K) float32, each row a distribution over the classes.
    """
    from torchvision.transforms import v2

    kinds: list[Any] = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
    kinds += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
    with unmoved():
        seed_all(seed)
        kind = kinds[int(torch.randint(len(kinds), ())) if len(kinds) > 1 else 0]
        images, target = kind(images, label)
    return images.contiguous(memory_format=torch.channels_last), target.float()
