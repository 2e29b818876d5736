"""The CIFAR ResNets of the distillation literature: 6n + 2 layers, three stages.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
https://arxiv.org/abs/1512.03385. Unlike there, a shortcut that changes the shape is a 1x1
convolution with batch norm, and "x4" widens the stages fourfold but the stem only twofold
(Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020.
https://arxiv.org/abs/1910.10699).
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Block, Net, Taps, conv, enter, init_kaiming


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut."""

    fusions = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out, 3)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W'), the sum before its ReLU."""
        # In place, as no backward pass reads what a batch norm gave: less memory is written and found anew.
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual: Tensor = self.bn2(self.conv2(inner))
        return residual.add_(x if self.downsample is None else self.downsample(x))


def stage(block: type[BasicBlock], c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` blocks, of which the first changes channels and side."""
    return nn.Sequential(block(c_in, c_out, stride), *(block(c_out, c_out, 1) for _ in range(blocks - 1)))


class ResNet(Net):
    """Widths are those of the stem and the three stages, all times ``wide``."""

    fusions = (("conv1", "bn1"),)

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, wide: int = 1) -> None:
        super().__init__()
        assert (depth - 2) % 6 == 0, depth
        n = (depth - 2) // 6
        stem, first, second, third = (wide * width for width in widths)
        self.num_classes = num_classes
        self.conv1 = conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(BasicBlock, stem, first, n, 1)
        self.layer2 = stage(BasicBlock, first, second, n, 2)
        self.layer3 = stage(BasicBlock, second, third, n, 2)
        self.fc = nn.Linear(third, num_classes)
        init_kaiming(self)

    def taps(self, image: Tensor) -> Taps:
        """Maps of the stem and the stages after, preacts before their last ReLU."""
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)
        feats, preacts = [x], [x]
        for layer in (self.layer1, self.layer2, self.layer3):
            *inner, last = layer
            for block in inner:
                x = F.relu(block(x), inplace=True)
            before = last(x)
            x = F.relu(before)  # not in place: both are shown
            feats.append(x)
            preacts.append(before)
        return Taps(tuple(feats), x, tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.fc

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm of each stage."""
        return tuple(cast(BasicBlock, layer[-1]).bn2 for layer in (self.layer1, self.layer2, self.layer3))


_PLAIN, _DOUBLE, _FOUR = (16, 16, 32, 64), (16, 32, 64, 128), (32, 64, 128, 256)

enter(
    __name__,
    {
        **{f"resnet{depth}": partial(ResNet, depth, _PLAIN) for depth in (8, 14, 20, 32, 38, 44, 56, 110, 116)},
        **{f"resnet{depth}x2": partial(ResNet, depth, _DOUBLE) for depth in (14, 38, 110)},
        **{f"resnet{depth}x4": partial(ResNet, depth, _FOUR) for depth in (8, 32)},
    },
)
