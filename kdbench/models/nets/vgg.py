"""VGG with batch norm for small images: five blocks, a global average pool, one linear layer.

Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition.
ICLR 2015. https://arxiv.org/abs/1409.1556. The three fully connected layers there are one
here, and the number in "vgg8" counts six layers with weights.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Net, Taps, enter, init_normal

_WIDTHS = (64, 128, 256, 512, 512)


def stack(c_in: int, c_out: int, convs: int) -> nn.Sequential:
    """``convs`` times conv-BN-ReLU, without the last ReLU: that is the caller's."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
        c_in = c_out
    return nn.Sequential(*layers[:-1])


class VGG(Net):
    """``convs``: convolutions in each of the five blocks; all channels times ``wide``."""

    def __init__(self, convs: tuple[int, int, int, int, int], num_classes: int, wide: int = 1) -> None:
        super().__init__()
        widths = [wide * width for width in _WIDTHS]
        self.num_classes = num_classes
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            stack(c_in, c_out, n) for c_in, c_out, n in zip((3, *widths[:-1]), widths, convs, strict=True)
        )
        self.classifier = nn.Linear(widths[-1], num_classes)
        init_normal(self, linear_std=0.01)

    @property
    def blocks(self) -> tuple[nn.Sequential, ...]:
        """All five, in order."""
        return self.block0, self.block1, self.block2, self.block3, self.block4

    def taps(self, image: Tensor) -> Taps:
        """Each block's map before its pool; preacts before its last ReLU (the first block has none)."""
        x = image
        feats: list[Tensor] = []
        preacts: list[Tensor] = []
        for place, block in enumerate(self.blocks):
            # 2x2 pools between the blocks. The last is there for 64-px images, whose map is 8 wide;
            # a 32-px image arrives with 4.
            if 1 <= place <= 3 or (place == 4 and min(x.shape[2:]) >= 8):
                x = F.max_pool2d(x, 2)
            before = block(x)
            x = F.relu(before)
            feats.append(x)
            preacts.append(before if place else x)
        return Taps(tuple(feats), x, tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.classifier

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm of blocks 1 to 4."""
        return tuple(block[-1] for block in self.blocks[1:])  # type: ignore[misc]


enter(
    __name__,
    {
        "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
        "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
        "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
        "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
        "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    },
)
