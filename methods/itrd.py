"""ITRD: raise the correlation of every dimension with the teacher's, and what the Gram matrices share.

Miles, Lopez Rodriguez, Mikolajczyk. Information Theoretic Representation Distillation.
BMVC 2022. https://arxiv.org/abs/2112.00459
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision

_DIGITS = 37  # float32 holds no smaller power of ten
_TINY = 1e-6  # of 1 + |mean|: in fp32 a dimension that spreads less over the batch is constant


def scores(x: Tensor) -> Tensor:
    """(B, D) -> (B, D), z-scores of each dimension over the batch (n - 1 in the variance); 0 where it is constant."""
    mean, tiny = x.mean(dim=0), _TINY * torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps
    centred = x - mean
    variance, least = centred.square().sum(dim=0) / (len(x) - 1), (tiny * (1 + mean.detach().abs())).square()
    return torch.where(variance > least, centred * variance.clamp(min=tiny**2).rsqrt(), 0)


@full_precision
def correlation(embedded: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """(B, D) each -> (), log2 sum_j |c_j - 1|^(2 alpha), c_j the correlation of dimension j over the batch."""
    c = (scores(embedded) * scores(teacher)).mean(dim=0)  # at most (B - 1) / B: see ``__init__``
    return (c - 1).abs().pow(2 * alpha).sum().log2()


def similarities(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), cosines of the images; 0 for a zero vector."""
    unit = F.normalize(x, dim=1)
    return unit @ unit.T


def of_trace_one(gram: Tensor) -> Tensor:
    """(B, B) -> (B, B); zeros stay."""
    return gram / gram.diagonal().sum().clamp(min=1e-12)


@full_precision
def mutual(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, D), (B, D_T) -> (), sum of squares of G_S minus that of G_S * G_T, each of trace 1."""
    ours, theirs = similarities(student), similarities(teacher)
    return (of_trace_one(ours).square() - of_trace_one(ours * theirs).square()).sum()


@register
class ITRD(Distiller):
    """loss = CE + KD + lambda_corr * log2 sum_j |c_j - 1|^(2 alpha) + lambda_mutual * sum (G_S^2 - G_ST^2).

    c_j is the correlation over the batch of dimension j of E f_S with that of f_T, f the pooled vectors and
    E a linear layer. G are matrices of cosines of the batch, G_S of the student (E f_S; f_S itself where it
    is as wide as f_T), G_ST its entries times the teacher's; both are divided by their traces.
    """

    reference = (
        "Miles, Lopez Rodriguez, Mikolajczyk. Information Theoretic Representation Distillation. BMVC 2022."
        " https://arxiv.org/abs/2112.00459"
    )
    provenance = "authors' code"
    deviations = (
        "A dimension that is constant over the batch counts as uncorrelated, and a batch of one image has no"
        " correlation term; the release is not finite there.",
        "The weights of the release's table are not published; the defaults are those of its parser.",
        "The release has no licence; no text of it is used.",
    )
    family = "relation"
    reads = "pooled"
    #: Both terms together times the usual factors.
    search: ClassVar = {
        "lambda_corr": (0.02, 0.2, 0.667, 2.0, 6.0, 20.0),
        "lambda_mutual": (0.0005, 0.005, 0.0167, 0.05, 0.15, 0.5),
    }

    def __init__(
        self,
        pair: Pair,
        *,
        lambda_corr: float = 2.0,
        lambda_mutual: float = 0.05,
        alpha: float = 1.5,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        if not alpha > 0:
            raise ValueError(f"itrd: alpha={alpha:g} does not reward correlation; take more than 0")
        most = _DIGITS / (2 * math.log10(max(2, pair.batch_size)))  # 1 - c is 1 / B where a dimension is copied
        if alpha > most:
            raise ValueError(f"itrd: alpha={alpha:g} takes powers that are 0 in float32; take {most:.3g} or less")
        self.lambda_corr, self.lambda_mutual, self.alpha = lambda_corr, lambda_mutual, alpha
        self.embed = nn.Linear(pair.student.pooled, pair.teacher.pooled)
        self.same_width = pair.student.pooled == pair.teacher.pooled

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        embedded = self.embed(student.pooled)
        alike = mutual(student.pooled if self.same_width else embedded, teacher.pooled)
        if len(embedded) < 2:
            return {"correlation": 0.0 * embedded.float().sum(), "mutual": self.lambda_mutual * alike}
        return {
            "correlation": self.lambda_corr * correlation(embedded, teacher.pooled, self.alpha),
            "mutual": self.lambda_mutual * alike,
        }
