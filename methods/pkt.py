"""PKT: images that the teacher finds alike must be alike, as probabilities, to the student.

Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer.
ECCV 2018. https://arxiv.org/abs/1803.10837
"""

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def unit(x: Tensor, eps: float) -> Tensor:
    """(B, D) -> x / (|x| + eps) by rows; a row of zeros stays, and gets no gradient."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    scaled: Tensor = x / (norm + eps).masked_fill(norm == 0, torch.inf)
    return scaled


@full_precision
def affinity(x: Tensor, eps: float = 1e-7) -> Tensor:
    """(B, D) -> (B, B), cosines mapped to [0, 1], rows summing to one."""
    directions = unit(x, eps)
    k = (directions @ directions.T + 1) / 2
    return k / k.sum(dim=1, keepdim=True)


@register
class PKT(Distiller):
    """loss = CE + KD + beta * mean_ij p_T log((p_T + eps) / (p_S + eps)), on pooled vectors.

    p(i, j) is the share of image j in the similarities of image i, itself included.
    """

    reference = (
        "Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018."
        " https://arxiv.org/abs/1803.10837"
    )
    provenance = "port"
    deviations = (
        "A student vector of zeros gets the gradient 0; the release gives NaN.",
        "The diagonal belongs to the probabilities, as released; the paper leaves it out.",
    )
    family = "relation"
    reads = "pooled"
    eps = 1e-7

    def __init__(self, pair: Pair, *, beta: float = 30000.0, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta = beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        p_s, p_t = affinity(student.pooled, self.eps), affinity(teacher.pooled, self.eps)
        divergence = p_t * torch.log((p_t + self.eps) / (p_s + self.eps))
        return {"affinity": self.beta * divergence.mean()}
