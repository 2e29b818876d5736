"""ICKD-C: the channels of the last map should resemble each other as the teacher's do.

Liu, Huang, Lin, Xie, Wang, Chang, Liang. Exploring Inter-Channel Correlation for Diversity-preserved
Knowledge Distillation. ICCV 2021. https://arxiv.org/abs/2202.03680
"""

import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision

_TINY = 1e-12  # a shorter row of a correlation matrix counts as zero


def shared(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, N), (B, C, M) -> (B, C): the inner product of row c of x x^T with row c of y y^T.

    By way of x^T y: neither matrix, C x C for every image (a gigabyte for 2048 channels), is made.
    """
    return ((x @ (x.mT @ y)) * y).sum(dim=2)


@full_precision  # sums over positions of products of products
def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Maps (B, C, H, W) of any two sides -> (): squared distances of the rows of unit length, mean over B and C."""
    x, y = student.flatten(2), teacher.flatten(2)
    xx, yy = shared(x, x), shared(y, y)
    there = (xx > _TINY**2) & (yy > _TINY**2)
    cosine = shared(x, y) * xx.clamp(min=_TINY**2).rsqrt() * yy.clamp(min=_TINY**2).rsqrt()
    lengths = (xx > _TINY**2).to(xx.dtype) + (yy > _TINY**2).to(yy.dtype)  # squared, of unit or zero rows
    return (lengths - 2 * torch.where(there, cosine, 0)).mean()


@register
class ICKD(Distiller):
    """loss = CE + KD + beta * mean over images and channels of |n(G_S) - n(G_T)|^2.

    G = X X^T, channels by channels, of the last map X (C x HW): the teacher's as it is, the student's after
    a 1x1 convolution to as many channels and a batch norm. n scales each row to unit length.
    """

    reference = (
        "Liu et al. Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation. ICCV 2021."
        " https://arxiv.org/abs/2202.03680"
    )
    provenance = "authors' code"
    deviations = (
        "The channel correlation of classification (ICKD-C) only; the grid-level one of segmentation is left out.",
        "The correlation matrices are not formed: their rows' lengths and products come out of H W x H W matrices.",
        "The embedding that the release makes for the teacher and never uses is left out.",
        "A last batch of one image with a map of one position, which batch norm refuses, trains without the term.",
        "beta is that of the release's README; its script has 4. The release has no licence; no text of it is used.",
    )
    family = "relation"

    def __init__(self, pair: Pair, *, beta: float = 2.5, **common: float) -> None:
        super().__init__(pair, **common)
        c_s, c_t = pair.student.last[0], pair.teacher.last[0]
        self.beta = beta
        self.embed = nn.Sequential(nn.Conv2d(c_s, c_t, 1, bias=False), nn.BatchNorm2d(c_t))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        b, _, h, w = student.last.shape
        if b * h * w < 2:
            return {"channels": 0.0 * student.last.float().sum()}
        return {"channels": self.beta * distance(self.embed(student.last), teacher.last)}
