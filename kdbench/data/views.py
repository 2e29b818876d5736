"""Further views of a batch, for methods that look at an image more than once.

A view takes the augmented crops, (B, C, H, W) uint8, and one seed per image, (B,) int64 on
the CPU, and gives images of the same shape, dtype and device. The same seed gives the same
view.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

View = Callable[[Tensor, Tensor | None], Tensor]


def _rotation(quarters: int) -> View:
    def rotated(images: Tensor, seeds: Tensor | None) -> Tensor:
        return torch.rot90(images, quarters, (2, 3))

    return rotated


def randaugment(images: Tensor, seeds: Tensor | None) -> Tensor:
    """RandAugment with 2 operations of strength 10, drawn per image (Cubuk et al., CVPR 2020).

    The images visit the CPU, one by one: slow, and the same on every device.
    """
    import numpy as np
    from PIL import Image
    from torchvision.transforms import RandAugment

    assert seeds is not None  # the loader gives them to every view in DRAWING
    augment = RandAugment(2, 10)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    generator = torch.default_generator  # the one that torchvision draws from
    state = generator.get_state()
    try:
        made = []
        for seed, image in zip(seeds.tolist(), pixels, strict=True):
            generator.manual_seed(seed)
            made.append(np.asarray(augment(Image.fromarray(image))))
    finally:
        generator.set_state(state)
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(images.device)


VIEWS: dict[str, View] = {
    "rot90": _rotation(1),
    "rot180": _rotation(2),
    "rot270": _rotation(3),
    "randaugment": randaugment,
}

#: Views that draw: they need the seeds, so they cannot be captured in a CUDA graph.
DRAWING = frozenset({"randaugment"})
