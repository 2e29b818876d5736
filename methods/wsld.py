"""WSLD: soft labels count where the student lags behind the teacher on the hard label.

Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang. Rethinking Soft Labels for Knowledge Distillation: A
Bias-Variance Tradeoff Perspective. ICLR 2021. https://arxiv.org/abs/2102.00650
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def lag(z_s: Tensor, z_t: Tensor, label: Tensor) -> Tensor:
    """w, (B,) in [0, 1], without gradient: 1 - exp(-CE_S / CE_T) of each image, at temperature 1."""
    ours, theirs = (F.cross_entropy(z.detach(), label, reduction="none") for z in (z_s, z_t))
    return 1 - torch.exp(-ours / (theirs + 1e-7))


@full_precision
def weighted_soft_label(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """(), tau^2 times the soft cross-entropy at tau, each image weighed by its lag, mean over the batch."""
    soft = -(F.softmax(z_t / tau, dim=1) * F.log_softmax(z_s / tau, dim=1)).sum(dim=1)
    return (lag(z_s, z_t, label) * soft).mean() * tau**2


@register
class WSLD(Distiller):
    """loss = CE + alpha * tau^2 * mean_i w_i * (-sum p_T log p_S), w_i = 1 - exp(-CE_S,i / CE_T,i).

    p are the probabilities at temperature tau; the cross-entropies in w are those of the label, at
    temperature 1 and without gradient, the teacher's plus 1e-7. The term stands in for KD's, which is therefore not
    offered.
    """

    reference = (
        "Zhou et al. Rethinking Soft Labels for Knowledge Distillation. ICLR 2021. https://arxiv.org/abs/2102.00650"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "The defaults are the authors' for ImageNet; on other pairs our conventions take alpha 2.25 and tau 4,"
        " those of another repository for CIFAR-100, for which the authors release none.",
        "The release's repository has no licence file; no text of it is used.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "alpha"

    def __init__(self, pair: Pair, *, alpha: float = 2.5, ce_weight: float = 1.0, tau: float = 2.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.alpha = alpha

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        soft = weighted_soft_label(student.logits, teacher.logits, batch.label, self.tau)
        return {"weighted": self.alpha * soft}
