"""Tf-KD_reg, a control: the teacher is written by hand, sure of the label and flat elsewhere.

Yuan, Tay, Li, Wang, Feng. Revisiting Knowledge Distillation via Label Smoothing Regularization.
CVPR 2020. https://arxiv.org/abs/1909.11723
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register


@register
class TfKD(Distiller):
    """loss = ce_weight * CE + alpha * multiplier * mean over B and K of KL(softmax(p / T) || softmax(z_S)).

    p is the virtual teacher: p_y on the label, (1 - p_y) / (K - 1) on every other class. The release
    weights CE with 1 - alpha, hence the default; a suite's convention may set another.

    Raises:
        ValueError: ``p_y`` is no probability.
    """

    reference = (
        "Yuan et al. Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020."
        " https://arxiv.org/abs/1909.11723"
    )
    provenance = "formula"
    needs_hard_labels = True
    deviations = (
        "As in the release, and unlike the paper's equation, the temperature softens the virtual teacher only, there"
        " is no factor T^2, and the KL is averaged over the classes, which the multiplier of 100 undoes for K = 100.",
        "alpha, T and the multiplier are those of the release's ResNet18 on CIFAR-100 for every student; the release"
        " has others per net.",
    )
    family = "control"
    needs_teacher = False
    reads = "logits"
    main_weight = "alpha"

    def __init__(
        self,
        pair: Pair,
        *,
        alpha: float = 0.1,
        T: float = 20.0,
        p_y: float = 0.99,
        multiplier: float = 100.0,
        ce_weight: float = 0.9,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        if not 0 < p_y <= 1:
            raise ValueError(f"tfkd: p_y={p_y:g} is no probability of the label; take above 0 to 1")
        self.alpha, self.multiplier = alpha, multiplier
        k = pair.num_classes
        sure = torch.full((k, k), (1 - p_y) / (k - 1)).fill_diagonal_(p_y)
        self.register_buffer("teachers", F.softmax(sure / T, dim=1))  # (K, K), row y for label y
        self.teachers: Tensor

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        divergence = F.kl_div(F.log_softmax(student.logits, dim=1), self.teachers[batch.label], reduction="none")
        return {"virtual": self.alpha * self.multiplier * divergence.mean()}
