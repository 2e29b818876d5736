"""ResNet50 with a stem for small images: a 3x3 convolution, no pool, four stages.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016.
https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Block, Net, Taps, conv, enter, init_kaiming

_EXPANSION = 4


class Bottleneck(Block):
    """1x1, 3x3 (with the stride), 1x1 convolution and a shortcut."""

    fusions = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = _EXPANSION * width
        self.conv1 = conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        changes = stride != 1 or c_in != c_out
        self.shortcut = nn.Sequential(*([conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)] if changes else []))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W'), the sum before its ReLU."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        residual: Tensor = self.bn3(self.conv3(inner))
        total: Tensor = residual + self.shortcut(x)
        return total


class ResNetBottleneck(Net):
    """``blocks``: how many each stage has; all channels times ``wide``."""

    fusions = (("conv1", "bn1"),)

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int, wide: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        c_in = 64 * wide
        self.conv1 = conv(3, c_in, 3)
        self.bn1 = nn.BatchNorm2d(c_in)
        stages = []
        for n, base, stride in zip(blocks, (64, 128, 256, 512), (1, 2, 2, 2), strict=True):
            width = base * wide
            c_out = _EXPANSION * width
            stages.append(
                nn.Sequential(Bottleneck(c_in, width, stride), *(Bottleneck(c_out, width, 1) for _ in range(n - 1)))
            )
            c_in = c_out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(c_in, num_classes)
        init_kaiming(self)

    @property
    def layers(self) -> tuple[nn.Sequential, ...]:
        """All four stages, in order."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def taps(self, image: Tensor) -> Taps:
        """Maps of the stem and the stages after, preacts before their last ReLU."""
        x = F.relu(self.bn1(self.conv1(image)))
        feats, preacts = [x], [x]
        for layer in self.layers:
            for block in layer:
                before = block(x)
                x = F.relu(before)
            feats.append(x)
            preacts.append(before)
        return Taps(tuple(feats), x, tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.linear

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm of each stage."""
        return tuple(layer[-1].bn3 for layer in self.layers)  # type: ignore[misc]


enter(__name__, {"ResNet50": partial(ResNetBottleneck, (3, 4, 6, 3))})
