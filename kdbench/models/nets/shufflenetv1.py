"""ShuffleNet with three groups, for small images: a 1x1 stem, no pool.

Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices. CVPR 2018. https://arxiv.org/abs/1707.01083. Unlike there, the depthwise
convolution is followed by a ReLU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Block, Net, Taps, conv, enter

_STEM, _WIDTHS, _BLOCKS, _GROUPS = 24, (240, 480, 960), (4, 8, 4), 3


class Bottleneck(Block):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 the pooled input is concatenated.

    ``groups``: of the first 1x1; the second always has three.
    """

    fusions = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        grown = c_out - c_in if stride == 2 else c_out
        inner = grown // 4
        self.conv1 = conv(c_in, inner, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, grown, 1, groups=_GROUPS)
        self.bn3 = nn.BatchNorm2d(grown)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W'), the sum or concatenation before its ReLU."""
        inner = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        inner = F.relu(self.bn2(self.conv2(inner)))
        residual: Tensor = self.bn3(self.conv3(inner))
        if self.stride == 2:
            return torch.cat([residual, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)
        return residual + x


class ShuffleNetV1(Net):
    """Three stages of 4, 8 and 4 blocks; all channels times ``wide``."""

    fusions = (("conv1", "bn1"),)

    def __init__(self, num_classes: int, wide: int = 1) -> None:
        super().__init__()
        stem, *widths = (wide * width for width in (_STEM, *_WIDTHS))
        self.num_classes = num_classes
        self.conv1 = conv(3, stem, 1)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                # The stem is too thin to be grouped.
                Bottleneck(c_in, c_out, 2, 1 if c_in == stem else _GROUPS),
                *(Bottleneck(c_out, c_out, 1, _GROUPS) for _ in range(n - 1)),
            )
            for c_in, c_out, n in zip((stem, *widths[:-1]), widths, _BLOCKS, strict=True)
        )
        self.linear = nn.Linear(widths[-1], num_classes)

    def taps(self, image: Tensor) -> Taps:
        """Maps of the stem and the stages after, preacts before their last ReLU."""
        x = F.relu(self.bn1(self.conv1(image)))
        feats, preacts = [x], [x]
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                before = block(x)
                x = F.relu(before)
            feats.append(x)
            preacts.append(before)
        return Taps(tuple(feats), x, tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.linear


enter(__name__, {"ShuffleV1": ShuffleNetV1})
