"""TTM: soften the teacher alone; without the student's temperature, KD gains a Renyi regulariser.

Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching.
ICLR 2024. https://arxiv.org/abs/2402.11148
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


@full_precision
def divergence(z_s: Tensor, z_t: Tensor, gamma: float) -> Tensor:
    """(B, K) logits each -> (B,), KL(p_T^gamma / sum || p_S), both at temperature 1."""
    # p_T^gamma, normalised, is the softmax of gamma z_T.
    return F.kl_div(F.log_softmax(z_s, dim=1), (gamma * z_t).softmax(dim=1), reduction="none").sum(dim=1)


@register
class TTM(Distiller):
    """loss = CE + beta * mean KL(p_T^gamma / sum_k p_T^gamma || p_S).

    It stands in for the KD term, which is therefore not offered. gamma is one over the teacher's
    temperature; there is no factor tau^2.
    """

    reference = (
        "Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024."
        " https://arxiv.org/abs/2402.11148"
    )
    provenance = "formula"
    deviations = ("The authors choose gamma (.1 to .4) and beta (7 to 101) per pair; defaults are of VGG13 -> VGG8.",)
    family = "logit"
    reads = "logits"

    def __init__(self, pair: Pair, *, beta: float = 45.0, gamma: float = 0.1, ce_weight: float = 1.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        self.beta, self.gamma = beta, gamma

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"transformed": self.beta * divergence(student.logits, teacher.logits, self.gamma).mean()}
