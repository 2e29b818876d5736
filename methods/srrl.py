"""SRRL: the student's representation must also be right in the eyes of the teacher's classifier.

Yang, Martinez, Bulat, Tzimiropoulos. Knowledge Distillation via Softmax Regression Representation
Learning. ICLR 2021. https://openreview.net/forum?id=ZzwDy_wiWv
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register


@register
class SRRL(Distiller):
    """loss = CE + KD + beta * (mean (f' - f_T)^2 + mean (h_T(f') - z_T)^2).

    f' is the student's pooled vector through 1x1 convolution, batch norm and ReLU; h_T is the
    teacher's own linear classifier, frozen.

    Raises:
        ValueError: on the first batch, when the teacher's classifier is not one linear layer.
    """

    reference = (
        "Yang et al. Knowledge Distillation via Softmax Regression Representation Learning. ICLR 2021."
        " https://openreview.net/forum?id=ZzwDy_wiWv"
    )
    provenance = "port"
    deviations = (
        "After the SimKD repository's version, which its published table uses: pooled vectors, all weights 1."
        " The authors' release was not compared.",
    )
    family = "feature"
    reads = "pooled"

    def __init__(
        self, pair: Pair, *, beta: float = 1.0, ce_weight: float = 1.0, kd_weight: float = 1.0, tau: float = 4.0
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        d_s, d_t = pair.student.pooled, pair.teacher.pooled
        self.beta = beta
        self.connector = nn.Sequential(nn.Conv2d(d_s, d_t, 1, bias=False), nn.BatchNorm2d(d_t), nn.ReLU())

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if teacher.classifier is None:
            raise ValueError("srrl: the teacher's classifier is not one linear layer on its pooled vector")
        connected = self.connector(student.pooled[:, :, None, None]).flatten(1)  # (B, D_T)
        judged = F.linear(connected, *teacher.classifier)  # (B, K)
        return {
            "feature": self.beta * F.mse_loss(connected, teacher.pooled),
            "logits": self.beta * F.mse_loss(judged, teacher.logits),
        }
