"""Exits behind a stage, from its map or its tokens to logits."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Shapes

HEADS = 4  # of every attention
GRID = 7  # tokens along a side, to which larger grids are merged


class Norm(nn.BatchNorm2d):
    """Batch norm that goes by its running statistics where one value is no statistic: one image, one position."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x[:, 0].numel() == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def separable(c_in: int, c_out: int) -> nn.Sequential:
    """(B, c_in, H, W) -> (B, c_out, H / 2, W / 2), none negative, by two depthwise separable convolutions."""

    def half(out: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=False)
        return [depthwise, nn.Conv2d(c_in, out, 1, bias=False), Norm(out), nn.ReLU()]

    return nn.Sequential(*half(c_in, 2), *half(c_out, 1))


def exit_head(channels: int, blocks: int, width: int, num_classes: int) -> nn.Sequential:
    """Map (B, channels, H, W) -> logits (B, K); channels double and sides halve ``blocks`` times on the way."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1)] if not blocks else []
    for left in range(blocks, 0, -1):
        layers.append(separable(channels, 2 * channels if left > 1 else width))
        channels *= 2
    head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return head


class Block(nn.Module):
    """(B, L, C) -> (B, L, C): attention, then a net of two layers, each on a normalised copy and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        added: Tensor = x + self.mlp(self.norm2(x))
        return added


class Merge(nn.Module):
    """(B, side^2, C) -> (B, (side / 2)^2, width): four neighbours as one vector, normalised and made narrower."""

    def __init__(self, side: int, channels: int, width: int, *, last: bool) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, width, bias=False)
        self.act = nn.Identity() if last else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """One merge; column by column within the four."""
        grid = x.unflatten(1, (self.side, self.side))
        four = torch.cat([grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=3)
        merged: Tensor = self.act(self.reduction(self.norm(four.flatten(1, 2))))
        return merged


class TokenExit(nn.Module):
    """(B, L, C) tokens of a stage -> (B, K): merges, ``blocks`` transformer blocks, what stands before the patches, or
    their mean where nothing does, and a linear layer.

    Args:
        tokens: (L, C) of the stage; ``before`` of them belong to no place of the image.
        before: class and distillation tokens.
        width: of the blocks.
        blocks: how many.
        num_classes: K.

    Raises:
        ValueError: the width, or the grid of patches, is none that can be divided.
    """

    def __init__(self, tokens: tuple[int, int], *, before: int, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        length, channels = tokens
        self.before, side = before, round((length - before) ** 0.5)
        if side**2 != length - before:
            raise ValueError(f"its {length - before} patches are no square")
        merges = list[nn.Module]()
        while side // 2 >= GRID:
            if side % 2:
                raise ValueError(f"its grid of {side}x{side} patches cannot be halved")
            last = side // 4 < GRID
            merges.append(Merge(side, channels, width, last=last and bool(merges)))
            side, channels = side // 2, width
        if channels != width or width % HEADS:
            raise ValueError(
                f"its tokens are {channels} wide, the blocks {width}, which must be the same and a multiple of 4"
            )
        self.merge = nn.Sequential(*merges)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.linear = nn.Linear(width * max(before, 1), num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def of(cls, student: Shapes, stage: int, left: int, num_classes: int) -> Self:
        """Behind a stage that ``left`` others follow, as wide as the last one's tokens."""
        if student.tokens is None:
            raise ValueError(
                "ofa: exits=tokens reads the tokens of a transformer or MLP, and this student shows maps only"
            )
        rows, (_, h, w) = student.tokens[stage], student.feats[stage]
        words = {"before": rows[0] - h * w, "width": student.tokens[-1][1], "blocks": max(left, 1)}
        try:
            return cls(rows, num_classes=num_classes, **words)
        except ValueError as error:
            raise ValueError(f"ofa: exits=tokens cannot read stage {stage} of this student: {error}") from None

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of one stage."""
        kept, patches = rows[:, : self.before], self.merge(rows[:, self.before :])
        x = self.blocks(torch.cat((kept, patches), dim=1) if self.before else patches)
        logits: Tensor = self.linear(x[:, : self.before].flatten(1) if self.before else x.mean(dim=1))
        return logits
