"""DIST: ask for the teacher's order, not its values: correlate predictions by image and by class.

Huang, You, Wang, Qian, Xu. Knowledge Distillation from A Stronger Teacher.
NeurIPS 2022. https://arxiv.org/abs/2205.10536
"""

from typing import ClassVar

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) each -> (N,), correlation of the rows; 0 where a row is constant."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    correlation: Tensor = (a * b).sum(dim=1) / (norms + 1e-8)
    return correlation


@full_precision
def uncorrelated(z_s: Tensor, z_t: Tensor, tau: float, *, by_class: bool) -> Tensor:
    """(B, K) logits each -> (), tau^2 (1 - mean correlation) of the probabilities' rows or columns."""
    p_s, p_t = (z_s / tau).softmax(dim=1), (z_t / tau).softmax(dim=1)
    rows = pearson(p_s.T, p_t.T) if by_class else pearson(p_s, p_t)
    return (1 - rows.mean()) * tau**2


@register
class DIST(Distiller):
    """loss = CE + tau^2 (beta * (1 - mean_i corr(p_S, p_T)_i) + gamma * (1 - mean_k corr(p_S, p_T)_k)).

    i runs over images (the inter-class relation), k over classes (intra-class: how the images of
    the batch rank within one class, which wants a large batch). Both stand in for the KD term,
    which is therefore not offered.
    """

    reference = (
        "Huang et al. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022. https://arxiv.org/abs/2205.10536"
    )
    provenance = "authors' code"
    deviations = ("The authors set tau to 4 on CIFAR-100 (the default here) and to 1 on ImageNet.",)
    family = "logit"
    reads = "logits"
    #: Both relations together times the usual factors.
    search: ClassVar = dict.fromkeys(("beta", "gamma"), (0.02, 0.2, 0.667, 2.0, 6.0, 20.0))

    def __init__(
        self, pair: Pair, *, beta: float = 2.0, gamma: float = 2.0, ce_weight: float = 1.0, tau: float = 4.0
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.beta, self.gamma = beta, gamma

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        given = student.logits, teacher.logits, self.tau
        return {
            "inter": self.beta * uncorrelated(*given, by_class=False),
            "intra": self.gamma * uncorrelated(*given, by_class=True),
        }
