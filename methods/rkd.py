"""RKD: the student keeps the teacher's distances between images and angles within triples of images.

Park, Kim, Lu, Cho. Relational Knowledge Distillation.
CVPR 2019. https://arxiv.org/abs/1904.05068
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B) Euclidean; exactly 0, with a gradient of 0, between equal rows.

    Not by inner products: their rounding would make up a distance between equal rows.
    """
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def off_diagonal(d: Tensor) -> Tensor:
    """(B, B) of the same, with a diagonal of zeros."""
    return d.masked_fill(torch.eye(len(d), dtype=torch.bool, device=d.device), 0)


@full_precision
def distance_potential(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), distances over their mean; the diagonal is 0 and left out of the mean."""
    d = off_diagonal(distances(x).clamp_min(1e-6))
    return d * (len(d) * (len(d) - 1)) / d.sum().clamp_min(1e-12)


@full_precision
def angle_potential(x: Tensor) -> Tensor:
    """(B, D) -> (B, B, B), the cosine at image i between images j and k; 0 where i equals one of them.

    By the law of cosines, so that no (B, B, D) tensor of differences is needed.
    """
    d = distances(x)
    # As in the release, two equal vectors have no direction but a gradient of some 1e12.
    square, inverse = d**2, off_diagonal(1 / d.clamp_min(1e-12))
    projection = (square[:, :, None] + square[:, None, :] - square[None]) / 2  # <x_j - x_i, x_k - x_i>
    return projection * (inverse[:, :, None] * inverse[:, None, :])


@register
class RKD(Distiller):
    """loss = CE + KD + beta * (beta_d * h(D_S, D_T) + beta_a * h(A_S, A_T)), on pooled vectors.

    D are the distances between images over their mean, A the cosines of all triples, h the mean
    smooth-L1 difference (the Huber loss with bend at 1).
    """

    reference = "Park et al. Relational Knowledge Distillation. CVPR 2019. https://arxiv.org/abs/1904.05068"
    provenance = "port"
    deviations = (
        "Means run over all B^2 and B^3 entries, diagonals included, as released.",
        "beta_d and beta_a are those of the suites that report RKD on CIFAR-100; the paper chooses per task.",
        "Cosines come from the law of cosines instead of difference vectors: the same values, less memory; but in fp32"
        " the gradient loses digits where two images have nearly one vector (.07 % of its largest entry at a relative"
        " distance of 1e-3, 4.5 % at 1e-5; one draw of 8 vectors of 64 entries).",
    )
    family = "relation"
    reads = "pooled"

    def __init__(
        self, pair: Pair, *, beta: float = 1.0, beta_d: float = 25.0, beta_a: float = 50.0, **common: float
    ) -> None:
        super().__init__(pair, **common)
        self.beta, self.beta_d, self.beta_a = beta, beta_d, beta_a

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        f_s, f_t = student.pooled, teacher.pooled
        distance = F.smooth_l1_loss(distance_potential(f_s), distance_potential(f_t))
        angle = F.smooth_l1_loss(angle_potential(f_s), angle_potential(f_t))
        return {"distance": self.beta * self.beta_d * distance, "angle": self.beta * self.beta_a * angle}
