"""ABKD: a divergence with two exponents, between KL and reverse KL and beyond, says where probability must agree.

Wang, Yang, Wang, Wang, Xu, Huang. ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
Distillation via alpha-beta-Divergence. ICML 2025. https://arxiv.org/abs/2505.04560

alpha turns the eyes to classes that the teacher rates much higher than the student, beta to those of which the
student is sure already.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision

_ZERO = 1e-6  # nearer to 0 than this an exponent is 0: dividing by it would leave rounding alone
_SMALL = 1e-2  # nearer to 0 than this it is divided by in double precision


def power(exponent: Tensor) -> Tensor:
    """exp, cut where it would pass the square root of the largest number; negative alpha or beta come there."""
    return exponent.clamp(max=math.log(torch.finfo(exponent.dtype).max) / 2).exp()


@full_precision
def divergence(z_s: Tensor, z_t: Tensor, tau: float, alpha: float, beta: float) -> Tensor:
    """(B, K) logits each -> (): the alpha-beta divergence from p_T to p_S at temperature tau, mean over the batch."""
    small = any(_ZERO <= abs(exponent) < _SMALL for exponent in (alpha, beta, alpha + beta))
    if small and z_s.dtype != torch.float64:
        return divergence(z_s.double(), z_t.double(), tau, alpha, beta).to(z_s.dtype)
    log_p, log_q = F.log_softmax(z_t / tau, dim=1), F.log_softmax(z_s / tau, dim=1)
    if abs(alpha) < _ZERO and abs(beta) < _ZERO:
        found = (log_q - log_p).square() / 2
    elif abs(beta) < _ZERO:
        p, q = power(alpha * log_p), power(alpha * log_q)
        found = (p * alpha * (log_p - log_q) - p + q) / alpha
    elif abs(alpha) < _ZERO:
        p, q = power(beta * log_p), power(beta * log_q)
        found = (q * beta * (log_q - log_p) - q + p) / beta
    elif abs(alpha + beta) < _ZERO:
        away = alpha * (log_q - log_p)
        found = (away + power(-away) - 1) / alpha**2
    else:
        both = alpha + beta
        mixed = power(alpha * log_p + beta * log_q)
        found = (alpha * power(both * log_p) + beta * power(both * log_q)) / both - mixed
        found = found / (alpha * beta)
    return found.sum(dim=1).mean()


@register
class ABKD(Distiller):
    """loss = CE + weight * mean D(p, q), p and q the probabilities of teacher and student at ``tau``; no tau^2.

    D = -1 / (alpha beta) sum [p^alpha q^beta - (alpha p^(alpha + beta) + beta q^(alpha + beta)) / (alpha + beta)].
    alpha 1, beta 0 is KL(p || q); alpha 0, beta 1 is KL(q || p); both 0 is half the squared difference of the
    logarithms. D stands in for the KD term, which is therefore not offered.
    """

    reference = (
        "Wang et al. ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via"
        " alpha-beta-Divergence. ICML 2025. https://arxiv.org/abs/2505.04560"
    )
    provenance = "authors' code"
    deviations = (
        "In log space, and with powers cut at the square root of the largest number; the release gives NaN once a"
        " probability of the student underflows.",
        "At alpha + beta = 0 the divergence has 1 / alpha^2, as in its definition; the release has 1 / alpha, which"
        " turns its sign for a negative alpha.",
        "At alpha = 0 or beta = 0 the factor is 1 / beta or 1 / alpha, as released; the limit of the divergence has"
        " their squares, which is the same at 1.",
        "The authors choose alpha and beta per pair; the defaults are those of resnet56 -> resnet20, with the weight of"
        " their README (their script's comment has 64).",
    )
    family = "logit"
    reads = "logits"
    main_weight = "weight"
    signed: ClassVar = ("alpha", "beta")

    def __init__(
        self,
        pair: Pair,
        *,
        alpha: float = 0.8,
        beta: float = 0.3,
        weight: float = 32.0,
        ce_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.alpha, self.beta, self.weight = alpha, beta, weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        found = divergence(student.logits, teacher.logits, self.tau, self.alpha, self.beta)
        return {"divergence": self.weight * found}
