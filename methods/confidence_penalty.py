"""Confidence penalty, a control without a teacher: predictions of low entropy cost.

Pereyra, Tucker, Chorowski, Kaiser, Hinton. Regularizing Neural Networks by Penalizing Confident
Output Distributions. ICLR workshop 2017. https://arxiv.org/abs/1701.06548
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register


@register
class ConfidencePenalty(Distiller):
    """loss = CE - beta * H(softmax(z_S)), H in nats, mean over the batch."""

    reference = (
        "Pereyra et al. Regularizing Neural Networks by Penalizing Confident Output Distributions."
        " ICLR workshop 2017. https://arxiv.org/abs/1701.06548"
    )
    provenance = "formula"
    deviations = ("The penalty is always on: the paper's hinge and its annealing of beta are left out.",)
    family = "control"
    needs_teacher = False
    reads = "logits"

    def __init__(self, pair: Pair, *, beta: float = 0.1, ce_weight: float = 1.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        self.beta = beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        log_p = F.log_softmax(student.logits, dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        return {"penalty": -self.beta * entropy}
