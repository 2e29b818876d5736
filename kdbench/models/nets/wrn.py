"""Wide residual networks: WRN-depth-width, pre-activation blocks, three stages.

Zagoruyko, Komodakis. Wide Residual Networks. BMVC 2016. https://arxiv.org/abs/1605.07146
No dropout. Stem and stages end in raw residual sums: feats are signed.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.nets._net import Block, Net, Taps, conv, enter, init_normal


class PreActBlock(Block):
    """BN-ReLU-conv twice; the caller applies ``bn1``, because its output is a tap."""

    # bn1 normalises a residual sum, not a convolution: only bn2 can be folded.
    fusions = (("conv1", "bn2"),)

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out, 3)
        self.convShortcut = None if c_in == c_out else conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        """Sum so far and its ``bn1``, (B, C_in, H, W) each -> (B, C_out, H', W')."""
        active = F.relu(normed)
        residual = self.conv2(F.relu(self.bn2(self.conv1(active))))
        total: Tensor = residual + (x if self.convShortcut is None else self.convShortcut(active))
        return total


class Stage(nn.Module):
    """Blocks under the published key ``layer``."""

    def __init__(self, c_in: int, c_out: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            PreActBlock(c_in, c_out, stride), *(PreActBlock(c_out, c_out, 1) for _ in range(blocks - 1))
        )


class WideResNet(Net):
    """6n + 4 layers; the stages are 16, 32 and 64 times ``width`` wide, and all is times ``wide``, the stem too."""

    def __init__(self, depth: int, width: int, num_classes: int, wide: int = 1) -> None:
        super().__init__()
        assert (depth - 4) % 6 == 0, depth
        n = (depth - 4) // 6
        self.num_classes = num_classes
        stem, width = 16 * wide, width * wide
        self.conv1 = conv(3, stem, 3)
        self.block1 = Stage(stem, 16 * width, n, 1)
        self.block2 = Stage(16 * width, 32 * width, n, 2)
        self.block3 = Stage(32 * width, 64 * width, n, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        init_normal(self, linear_std=None)

    def taps(self, image: Tensor) -> Taps:
        """Raw sums; a stage's preact is that sum behind the *next* batch norm of the network.

        That norm's output is taken on its way to the next block. The released networks apply the
        norm a second time to get it, which in training mode updates its running statistics twice.
        """
        x = self.conv1(image)
        feats, preacts = [x], [x]
        for place, stage in enumerate((self.block1, self.block2, self.block3)):
            for position, block in enumerate(stage.layer):
                normed: Tensor = block.bn1(x)  # type: ignore[operator]
                if place and not position:
                    preacts.append(normed)
                x = block(x, normed)
            feats.append(x)
        normed = self.bn1(x)
        preacts.append(normed)
        return Taps(tuple(feats), F.relu(normed), tuple(preacts))

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.fc

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The batch norm behind each stage."""
        return self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1  # type: ignore[return-value]


enter(
    __name__,
    {
        f"wrn_{depth}_{width}": partial(WideResNet, depth, width)
        for depth, width in ((16, 1), (16, 2), (40, 1), (40, 2))
    },
)
