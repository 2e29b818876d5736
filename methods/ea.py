"""EA-KD: distil more from images on which the teacher is unsure, most where the student is unsure too.

Su, Tseng, Pu, Zhao, Yang, Chen, Lee. EA-KD: Entropy-based Adaptive Knowledge Distillation.
ICCV 2025. https://arxiv.org/abs/2311.13621
"""

import math
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, ramp
from kdbench.methods.dkd import non_target_class, target_class


@full_precision
def entropy(z: Tensor, t: float, clamp: bool) -> Tensor:
    """(B, K) logits -> (B,), nats of softmax(z / t); the released guards of the logarithm, a sum or a clamp."""
    p = F.softmax(z / t, dim=1)
    return -(p * (p.clamp_min(1e-10) if clamp else p + 1e-10).log()).sum(dim=1)


@full_precision
def divergence(z_s: Tensor, z_t: Tensor, tau: float) -> Tensor:
    """(B, K) logits each -> (B,), tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) of every image."""
    log_s, log_t = F.log_softmax(z_s / tau, dim=1), F.log_softmax(z_t / tau, dim=1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=1) * tau**2


@full_precision
def decoupled(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float, alpha: float, beta: float) -> Tensor:
    """(B, K) logits each -> (B,), DKD's alpha * TCKD + beta * NCKD of every image."""
    tckd, nckd = (part(z_s, z_t, label, tau) * tau**2 for part in (target_class, non_target_class))
    return alpha * tckd + beta * nckd


@register
class EA(Distiller):
    """loss = ce_weight * CE + weight * mean w_i l_i, w_i = H_T (1 + H_S / upper) / 2, without gradient.

    H are the entropies of softmax(z / t) of image i. l_i is tau^2 KL with ``base="kd"``, and with ``"dkd"``
    min(progress / warmup, 1) * (alpha * TCKD + beta * NCKD). It stands in for the KD term, which is therefore
    not offered. ``ea+kd`` and ``ea+dkd`` choose the base, and take it once; a convention gives each its weights.
    w is not divided by its mean, so it changes the size of the loss, too.

    Args:
        pair: shapes and facts of the pair.
        base: whose loss is weighed, "kd" or "dkd".
        weight: of the weighed loss; the authors take .9 for KD, beside .1 CE, and 1 for DKD, beside 1 CE.
        t: temperature of the entropies; the authors take 2 on ImageNet.
        upper: by what H_S is divided; 0 takes the paper's log K, the largest that it can be.
        alpha: DKD's weight of the target class.
        beta: DKD's weight of the others.
        warmup: share of the training over which DKD grows.
        ce_weight: weight of the cross-entropy.
        tau: temperature of the loss.

    Raises:
        ValueError: another base; ``upper`` below 0.
    """

    reference = (
        "Su et al. EA-KD: Entropy-based Adaptive Knowledge Distillation. ICCV 2025. https://arxiv.org/abs/2311.13621"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "Paper: the student's entropy is divided by log K. Released for CIFAR-100, and the default here, it is divided"
        " by 100, so that it hardly matters; upper=0 takes log K.",
        "The weighed DKD is in log space and its warm-up grows with every step, as in dkd.",
        "The release weighs MLKD, ReviewKD and FCFD, too; here KD and DKD.",
        "The release has no licence: this is written from its formulas and holds none of its text.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "weight"
    absorbs: ClassVar[dict[str, dict[str, Any]]] = {"kd": {"base": "kd"}, "dkd": {"base": "dkd"}}

    def __init__(
        self,
        pair: Pair,
        *,
        base: Literal["kd", "dkd"] = "kd",
        weight: float = 0.9,
        t: float = 3.0,
        upper: float = 100.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: float = 20 / 240,
        ce_weight: float = 0.1,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        if base not in ("kd", "dkd"):
            raise ValueError(f'ea: base={base!r} cannot be weighed image by image; take "kd" or "dkd"')
        if upper < 0:
            raise ValueError(f"ea: upper={upper} is no entropy; take more than 0, or 0 for log K")
        self.dkd, self.weight, self.t = base == "dkd", weight, t
        self.upper = upper or math.log(pair.num_classes)
        self.alpha, self.beta, self.warmup = alpha, beta, warmup

    def weights(self, student: Outputs, teacher: Outputs) -> Tensor:
        """(B,), w of every image."""
        ours, theirs = (entropy(side.logits.detach(), self.t, self.dkd) for side in (student, teacher))
        return theirs * (1 + ours / self.upper) / 2

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        w, both = self.weights(student, teacher), (student.logits, teacher.logits)
        if not self.dkd:
            return {"weighed": self.weight * (w * divergence(*both, self.tau)).mean()}
        grown = ramp(batch.progress, self.warmup)
        loss = decoupled(*both, batch.label, self.tau, self.alpha, self.beta)
        return {"weighed": grown * self.weight * (w * loss).mean()}
