"""RLD: the teacher's confidence, not its possibly wrong class, guides the label; the rest is matched below it.

Sun, Chen, Lyu, Chen, Chen, Wang. Knowledge Distillation with Refined Logits.
ICCV 2025. https://arxiv.org/abs/2408.07703
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import at_class, divergence, full_precision, ramp
from kdbench.methods.dkd import log_binary
from kdbench.methods.lskd import standardise


@full_precision
def confidence(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """SCD, (B,): tau^2 KL of the teacher's (max p, 1 - max p) to the student's (p_y, 1 - p_y)."""
    ours = log_binary(z_s / tau, at_class(label, z_s))
    theirs = log_binary(z_t / tau, at_class(z_t.argmax(dim=1), z_t))
    return divergence(ours, theirs) * tau**2


@full_precision
def correlation(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """MCD, (B,): tau^2 KL among the classes that the teacher ranks below the label; 0 where there are none."""
    out = z_t >= z_t.gather(1, label[:, None])
    # A row without any class left stays as it is: of nothing but -inf there is no softmax.
    cut = out & ~out.all(dim=1, keepdim=True)
    log_s, log_t = (
        F.log_softmax((z / tau).masked_fill(cut, -torch.inf), dim=1).masked_fill(out, 0) for z in (z_s, z_t)
    )
    return divergence(log_s, log_t) * tau**2


@register
class RLD(Distiller):
    """loss = CE + min(progress / warmup, 1) * (alpha * mean SCD + beta * mean MCD).

    SCD is KL between (max p_T, 1 - max p_T) and (p_S(y), 1 - p_S(y)) at ``alpha_tau`` (0: at tau), times
    its square. MCD is tau^2 KL among the classes c with z_T,c < z_T,y. They stand in for the KD term, which
    is therefore not offered. ``standardise`` first z-scores both rows of logits; the authors then take
    alpha 9, beta 72, tau 2. ``warmup`` is a share of the training.
    """

    reference = "Sun et al. Knowledge Distillation with Refined Logits. ICCV 2025. https://arxiv.org/abs/2408.07703"
    provenance = "authors' code"
    needs_hard_labels = True
    roles: ClassVar = {"confidence": "target"}
    deviations = (
        "alpha_tau is tau, as in the command of the release's README (--same-t); its configuration alone has 1.",
        "In log space: the release takes the logarithm of a probability that underflows, and is infinite there.",
        "The warm-up grows with every step over 20/240 of the training; in the release it grows with every epoch.",
        "The release has no licence; no text of it is used.",
    )
    family = "logit"
    reads = "logits"

    def __init__(
        self,
        pair: Pair,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        alpha_tau: float = 0.0,
        standardise: bool = False,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.alpha, self.beta, self.alpha_tau = alpha, beta, alpha_tau or tau
        self.standardise, self.warmup = standardise, warmup

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        grown = ramp(batch.progress, self.warmup)
        z_s, z_t = student.logits, teacher.logits
        if self.standardise:
            z_s, z_t = standardise(z_s), standardise(z_t)
        return {
            "confidence": grown * self.alpha * confidence(z_s, z_t, batch.label, self.alpha_tau).mean(),
            "correlation": grown * self.beta * correlation(z_s, z_t, batch.label, self.tau).mean(),
        }
