"""DKD: split the KD loss into the target class and the others, and weigh the two freely.

Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation.
CVPR 2022. https://arxiv.org/abs/2203.08679
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import at_class, divergence, full_precision, ramp


def log_binary(z: Tensor, target: Tensor) -> Tensor:
    """(B, K) logits -> (B, 2), log p and log(1 - p) of the target class; ``target`` is a (B, K) mask."""
    log_p = F.log_softmax(z, dim=1)
    hit = log_p.masked_fill(~target, 0).sum(dim=1)
    return torch.stack([hit, log_p.masked_fill(target, -torch.inf).logsumexp(dim=1)], dim=1)


def log_others(z: Tensor, target: Tensor) -> Tensor:
    """(B, K) logits -> (B, K), log-probabilities among the other classes; 0 at the target."""
    return F.log_softmax(z.masked_fill(target, -torch.inf), dim=1).masked_fill(target, 0)


@full_precision
def target_class(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """TCKD of each image before its factor tau^2, (B,): KL between the pairs (p_y, 1 - p_y)."""
    target = at_class(label, z_s)
    return divergence(log_binary(z_s / tau, target), log_binary(z_t / tau, target))


@full_precision
def non_target_class(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """NCKD of each image before its factor tau^2, (B,): KL between the probabilities among the other classes."""
    target = at_class(label, z_s)
    return divergence(log_others(z_s / tau, target), log_others(z_t / tau, target))


@register
class DKD(Distiller):
    """loss = CE + min(progress / warmup, 1) * (alpha * TCKD + beta * NCKD).

    TCKD and NCKD stand in for the KD term, which is therefore not offered. ``warmup`` is a share
    of the training.
    """

    reference = "Zhao et al. Decoupled Knowledge Distillation. CVPR 2022. https://arxiv.org/abs/2203.08679"
    provenance = "authors' code"
    needs_hard_labels = True
    roles: ClassVar = {"target": "target"}
    deviations = (
        "In log space, with the target class left out; the release subtracts 1000 from its logit, which is the same"
        " until logits reach 1e3, where the release gives NaN.",
        "The warm-up grows with every step over 20/240 of the training; in the release it grows with every epoch.",
        "The release chooses beta per pair; the default is that of resnet32x4 -> resnet8x4.",
    )
    family = "logit"
    reads = "logits"

    def __init__(
        self,
        pair: Pair,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.alpha, self.beta, self.warmup = alpha, beta, warmup

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        grown = ramp(batch.progress, self.warmup)
        given = student.logits, teacher.logits, batch.label, self.tau
        return {
            "target": grown * self.alpha * (target_class(*given).mean() * self.tau**2),
            "non_target": grown * self.beta * (non_target_class(*given).mean() * self.tau**2),
        }
