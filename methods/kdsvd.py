"""KD-SVD: compress every stage to its leading singular vectors and match how they change with depth.

Lee, Kim, Song. Self-supervised Knowledge Distillation Using Singular Value Decomposition.
ECCV 2018. https://arxiv.org/abs/1807.06819
"""

from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


class FiniteGradient(torch.autograd.Function):
    """The identity; entries of the gradient that are not finite become 0.

    The derivative of singular vectors divides by gaps between singular values, which can be 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.where(grad.isfinite(), grad, 0)


def right_vectors(feat: Tensor, n: int, rows: str) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the n leading singular values (B, n) and right vectors (B, C, n).

    ``rows`` "positions" decomposes the (H W, C) matrix; "lines" the (C H, W) one, whose vectors are W long.
    """
    matrix = feat.flatten(2).transpose(1, 2) if rows == "positions" else feat.flatten(1, 2)
    # A diverged map must end in a loss that is not finite (CE sees to it), not in an error of the SVD.
    matrix = FiniteGradient.apply(matrix).nan_to_num()
    _, s, v_t = torch.linalg.svd(matrix, full_matrices=False)
    return s[:, :n], F.normalize(v_t[:, :n].transpose(1, 2), dim=1)


def aligned(v_s: Tensor, v_t: Tensor) -> Tensor:
    """(B, C, m) and (B, C, k) -> (B, C, k), for each teacher vector the student's nearest, with its sign."""
    cosine = v_s.transpose(1, 2) @ v_t  # (B, m, k), both are unit vectors
    nearest = F.one_hot(cosine.abs().argmax(dim=1), cosine.shape[1]).transpose(1, 2)  # (B, m, k)
    return v_s @ (nearest * cosine.detach().sign())


def radial(deep: Tensor, shallow: Tensor) -> Tensor:
    """(B, C, k) and (B, C', k) -> (B, C, C', k), a Gaussian of the differences between entries."""
    return torch.exp(-((deep[:, :, None] - shallow[:, None]) ** 2) / 8)


@full_precision
def correlation_gap(*feats: Tensor, k: int, rows: str) -> Tensor:
    """Stages of the student, then as many of the teacher -> (), summed over successive stages."""
    half = len(feats) // 2
    vectors = []
    for f_s, f_t in zip(feats[:half], feats[half:], strict=True):
        s_t, v_t = right_vectors(f_t, k, rows)
        _, v_s = right_vectors(f_s, k + 3, rows)
        scale = F.normalize(s_t, dim=1)[:, None]  # (B, 1, k)
        vectors.append((aligned(v_s, v_t) * scale, v_t * scale))
    gaps = [
        (radial(v_s, before_s) - radial(v_t, before_t)).square().sum() / len(v_s)
        for (before_s, before_t), (v_s, v_t) in pairwise(vectors)
    ]
    return torch.stack(gaps).sum()


@register
class KDSVD(Distiller):
    """loss = CE + KD + beta * sum over successive stages of sum (R_S - R_T)^2 / B.

    R is a radial kernel between the leading right singular vectors of a stage and of the one
    before; a teacher vector meets the nearest among the first k + 3 of the student.

    Raises:
        ValueError: fewer than two stages, or stages that differ in what a vector's entries are
            (channels; the width of the map with ``rows="lines"``).
    """

    reference = (
        "Lee, Kim, Song. Self-supervised Knowledge Distillation Using Singular Value Decomposition. ECCV 2018."
        " https://arxiv.org/abs/1807.06819"
    )
    provenance = "port"
    deviations = (
        "After RepDistiller's version (rows=positions); rows=lines is mdistiller's, which unfolds a map to (C H, W) and"
        " so decomposes something else than the method means to.",
        "A vector's sign is what the SVD routine returns, as in those suites, and the loss depends on it: the CPU and"
        " a GPU may disagree.",
        "Entries of a map's gradient that are not finite become 0.",
    )

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 1.0,
        k: int = 1,
        rows: Literal["positions", "lines"] = "positions",
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        if rows not in ("positions", "lines"):
            raise ValueError(f"kdsvd: rows={rows!r} is neither positions nor lines")
        stages = list(zip(pair.student.feats[1:], pair.teacher.feats[1:], strict=False))
        axis = 0 if rows == "positions" else 2
        lengths = [(s[axis], t[axis]) for s, t in stages]
        if len(stages) < 2:
            raise ValueError("kdsvd: compares successive stages; this pair shares fewer than two")
        if any(s != t for s, t in lengths):
            what = "channels" if rows == "positions" else "columns"
            found = ", ".join(f"{s}:{t}" for s, t in lengths)
            raise ValueError(f"kdsvd: needs as many {what} in the student's stages as in the teacher's, not {found}")
        self.beta, self.k, self.rows, self.stages = beta, k, rows, len(stages)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        last = 1 + self.stages
        gap = correlation_gap(*student.feats[1:last], *teacher.feats[1:last], k=self.k, rows=self.rows)
        return {"svd": self.beta * gap}
