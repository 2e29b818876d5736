"""NormKD: every image has a temperature of its own, the spread of its logits.

Chi, Zheng, Li, Yang, Wu, Lin, Cai. NormKD: Normalized Logits for Knowledge Distillation.
2023. https://arxiv.org/abs/2308.00520
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def temperature(z: Tensor, T: float) -> Tensor:
    """(B, K) logits -> (B, 1), T standard deviations of each row; 1 for a row without spread."""
    tau = T * z.std(dim=1, keepdim=True)
    return torch.where(tau > 0, tau, 1)


@full_precision
def normalised_kl(z_s: Tensor, z_t: Tensor, T: float) -> Tensor:
    """(B, K) logits each -> (), mean tau_T^2 KL(softmax(z_T / tau_T) || softmax(z_S / tau_S))."""
    tau_s, tau_t = temperature(z_s, T), temperature(z_t, T)
    kl = F.kl_div(F.log_softmax(z_s / tau_s, dim=1), F.softmax(z_t / tau_t, dim=1), reduction="none")
    return (kl.sum(dim=1) * tau_t[:, 0] ** 2).mean()


@register
class NormKD(Distiller):
    """loss = ce_weight * CE + beta * mean tau_T^2 KL(softmax(z_T / tau_T) || softmax(z_S / tau_S)).

    tau = T * std(z), per image and per network. The term stands in for the KD term, which is
    therefore not offered.
    """

    reference = (
        "Chi et al. NormKD: Normalized Logits for Knowledge Distillation. 2023. https://arxiv.org/abs/2308.00520"
    )
    provenance = "formula"
    deviations = (
        "The standard deviation has n - 1 in it, and the student's is differentiated like the rest: our reading,"
        " not compared with the release.",
    )
    family = "logit"
    reads = "logits"

    def __init__(self, pair: Pair, *, beta: float = 0.9, T: float = 2.0, ce_weight: float = 0.1) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        self.beta, self.T = beta, T

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"normalised": self.beta * normalised_kl(student.logits, teacher.logits, self.T)}
