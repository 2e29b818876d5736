"""MobileNetV2 at half width, for small images: the stem already halves the side.

Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks.
CVPR 2018. https://arxiv.org/abs/1801.04381. No dropout, plain ReLU, stride 1 in the second
group of blocks. Stages end in linear bottlenecks: feats are signed, and there are no preacts.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdbench.models.nets._net import Net, Taps, conv, enter, init_normal

#: Expansion, channels at full width, blocks, stride of the first; one line per group.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_TAPS = (1, 2, 4, 6)  # the groups that the literature calls stages
_STEM, _LAST = 32, 1280


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down without ReLU; a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.residual = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            conv(c_in, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv(inner, inner, 3, stride, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv(inner, c_out, 1),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(Net):
    """All channels but the last 1280 are scaled by ``width`` and by ``wide``."""

    def __init__(self, width: float, num_classes: int, wide: int = 1) -> None:
        super().__init__()
        width *= wide
        self.num_classes = num_classes
        c_in = int(_STEM * width)
        self.conv1 = nn.Sequential(conv(3, c_in, 3, 2), nn.BatchNorm2d(c_in), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expansion, channels, n, stride in _GROUPS:
            c_out = int(channels * width)
            self.blocks.append(
                nn.Sequential(
                    InvertedResidual(c_in, c_out, stride, expansion),
                    *(InvertedResidual(c_out, c_out, 1, expansion) for _ in range(n - 1)),
                )
            )
            c_in = c_out
        self.conv2 = nn.Sequential(conv(c_in, _LAST, 1), nn.BatchNorm2d(_LAST), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(_LAST, num_classes))
        init_normal(self, linear_std=0.01)

    def taps(self, image: Tensor) -> Taps:
        """Maps of the stem and of four groups; what is pooled is the 1x1-convolved last one."""
        x = self.conv1(image)
        feats = [x]
        for place, group in enumerate(self.blocks):
            x = group(x)
            if place in _TAPS:
                feats.append(x)
        return Taps(tuple(feats), self.conv2(x), None)

    def get_classifier(self) -> nn.Linear:
        """The final linear layer."""
        return self.classifier[0]  # type: ignore[return-value]

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm of each tapped group."""
        return tuple(self.blocks[place][-1].conv[7] for place in _TAPS)  # type: ignore[index]


enter(__name__, {"MobileNetV2": partial(MobileNetV2, 0.5), "MobileNetV2_1_0": partial(MobileNetV2, 1.0)})
