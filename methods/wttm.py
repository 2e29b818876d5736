"""WTTM: as TTM, and images whose teacher is less sure weigh more.

Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching.
ICLR 2024. https://arxiv.org/abs/2402.11148
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision
from kdbench.methods.ttm import divergence


@full_precision
def power_sum(z: Tensor, gamma: float) -> Tensor:
    """(B, K) logits -> (B,), sum_k p^gamma: 1 where p is one-hot, K^(1 - gamma) where it is uniform."""
    return (gamma * F.log_softmax(z, dim=1)).exp().sum(dim=1)


@register
class WTTM(Distiller):
    """loss = CE + beta * mean U KL(p_T^gamma / U || p_S), U = sum_k p_T^gamma.

    It stands in for the KD term, which is therefore not offered.
    """

    reference = (
        "Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024."
        " https://arxiv.org/abs/2402.11148"
    )
    provenance = "formula"
    deviations = ("The authors choose gamma (.1 to .4) and beta (1.4 to 16) per pair; defaults are of VGG13 -> VGG8.",)
    family = "logit"
    reads = "logits"

    def __init__(self, pair: Pair, *, beta: float = 2.25, gamma: float = 0.1, ce_weight: float = 1.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        self.beta, self.gamma = beta, gamma

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        weighed = power_sum(teacher.logits, self.gamma) * divergence(student.logits, teacher.logits, self.gamma)
        return {"transformed": self.beta * weighed.mean()}
