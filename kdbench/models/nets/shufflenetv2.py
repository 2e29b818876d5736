"""ShuffleNetV2 for small images: a 1x1 stem, no pool, a 1x1 convolution before the head.

Ma, Zhang, Zheng, Sun. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design.
ECCV 2018. https://arxiv.org/abs/1807.11164
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Block, Net, Taps, conv, enter

_STEM, _BLOCKS, _LAST = 24, (4, 8, 4), 1024


class Split(Block):
    """One half of the channels passes, the other is convolved; then both are shuffled."""

    fusions = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the block's output and its preact, both (B, C, H, W)."""
        passed, inner = x.chunk(2, 1)
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inner)))))
        before = self.bn3(self.conv3(inner))
        return F.channel_shuffle(torch.cat([passed, F.relu(before)], 1), 2), torch.cat([passed, before], 1)


class Down(Block):
    """Both branches are convolved with stride 2 and concatenated."""

    fusions = tuple((f"conv{i}", f"bn{i}") for i in range(1, 6))

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_out // 2
        self.conv1 = conv(c_in, c_in, 3, 2, groups=c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = conv(c_in, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(c_in, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return F.channel_shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2(Net):
    """``widths``: channels of the three stages; all but the last 1024 times ``wide``."""

    fusions = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, widths: tuple[int, int, int], num_classes: int, wide: int = 1) -> None:
        super().__init__()
        inputs = tuple(wide * width for width in (_STEM, *widths))
        self.num_classes = num_classes
        self.conv1 = conv(3, inputs[0], 1)
        self.bn1 = nn.BatchNorm2d(inputs[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Down(c_in, c_out), *(Split(c_out) for _ in range(n - 1)))
            for c_in, c_out, n in zip(inputs[:-1], inputs[1:], _BLOCKS, strict=True)
        )
        self.conv2 = conv(inputs[-1], _LAST, 1)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.linear = nn.Linear(_LAST, num_classes)

    def taps(self, image: Tensor) -> Taps:
        """Maps of the stem and the stages; what is pooled is the 1x1-convolved last one.

        A preact is taken before the shuffle, as published: its channels are in another order
        than the map's, and the half that only passed is already rectified.
        """
        x = F.relu(self.bn1(self.conv1(image)))
        feats, preacts = [x], [x]
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer[0](x)
            for block in layer[1:]:
                x, before = block(x)
            feats.append(x)
            preacts.append(before)
        return Taps(tuple(feats), F.relu(self.bn2(self.conv2(x))), tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.linear


enter(
    __name__,
    {
        "ShuffleV2": partial(ShuffleNetV2, (116, 232, 464)),
        "ShuffleV2_1.5": partial(ShuffleNetV2, (176, 352, 704)),
    },
)
