"""CTKD: the temperature is trained against the student, ever more strongly, so that the task grows harder.

Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation.
AAAI 2023. https://arxiv.org/abs/2211.16231
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import divergence, full_precision
from kdbench.methods.dkd import non_target_class, target_class

_EPOCHS = 240  # of the recipe in which the curriculum is stated


@full_precision
def kl_at(z_s: Tensor, z_t: Tensor, tau: Tensor) -> Tensor:
    """(), tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)), mean over B; the gradient reaches tau on every way."""
    log_s, log_t = F.log_softmax(z_s / tau, dim=1), F.log_softmax(z_t / tau, dim=1)
    return divergence(log_s, log_t).mean() * tau**2


@register
class CTKD(Distiller):
    """loss = ce_weight * CE + weight * KL_tau(z_S, z_T), tau = t_start + t_end * sigmoid(theta).

    theta is trained with the student, as one of its parameters (rate, momentum and weight decay alike),
    on its gradient times lambda(e) = decay_min + (decay_max - decay_min) (1 + cos(pi min(e, loops) / loops)) / 2,
    with e the epoch, counted from 1: at first hardly, after ``loops`` epochs fully *up* the loss. The
    KL term stands in for KD's. With ``base="dkd"`` it is DKD's alpha * TCKD + beta * NCKD at tau instead;
    the authors then weigh CE and the term 1 and 1, else .1 and .9.

    Raises:
        ValueError: ``base`` is neither kd nor dkd.
    """

    reference = (
        "Li et al. Curriculum Temperature for Knowledge Distillation. AAAI 2023. https://arxiv.org/abs/2211.16231"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    roles: ClassVar = {"target": "target"}
    deviations = (
        "In log space throughout; in the release, under today's PyTorch, the gradient of theta is NaN with the DKD base"
        " and wherever a probability of the teacher underflows.",
        "An epoch of the curriculum is 1/240 of the training, whatever its length.",
        "Under an optimizer that divides a gradient by its size (AdamW), lambda slows theta next to nothing, and"
        " theta, as every weight of one dimension there, does not decay.",
        "The global temperature only; the one predicted for every image is left out.",
        "The release chooses beta of the DKD base per pair; the default is that of resnet32x4 -> resnet8x4.",
        "In a combination the learned temperature is that of this term alone; the others keep theirs.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "weight"

    def __init__(
        self,
        pair: Pair,
        *,
        base: Literal["kd", "dkd"] = "kd",
        weight: float = 0.9,
        t_start: float = 1.0,
        t_end: float = 20.0,
        decay_max: float = 0.0,
        decay_min: float = -1.0,
        loops: float = 10.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        ce_weight: float = 0.1,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        if base not in ("kd", "dkd"):
            raise ValueError(f"ctkd: base={base!r} is no loss that it knows; take kd or dkd")
        self.base, self.weight, self.alpha, self.beta = base, weight, alpha, beta
        self.t_start, self.t_end = t_start, t_end
        self.decay_max, self.decay_min, self.loops = decay_max, decay_min, loops
        self.theta = nn.Parameter(torch.ones(1))

    def strength(self, progress: Tensor) -> Tensor:
        """lambda, (), from the share of the training that is done."""
        epoch = (_EPOCHS * progress + 1e-4).floor() + 1  # float32(63 / 240) * 240 is a little less than 63
        share = (epoch / self.loops).clamp(max=1)
        return self.decay_min + (self.decay_max - self.decay_min) * 0.5 * (1 + torch.cos(math.pi * share))

    def temperature(self, progress: Tensor) -> Tensor:
        """tau, (); the gradient that it passes on to theta is multiplied by lambda."""
        still = self.theta.detach()
        reversed_theta = still + self.strength(progress) * (self.theta - still)
        return (self.t_start + self.t_end * torch.sigmoid(reversed_theta)).squeeze(0)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        tau = self.temperature(batch.progress)
        if self.base == "kd":
            return {"soft": self.weight * kl_at(student.logits, teacher.logits, tau)}
        given = student.logits, teacher.logits, batch.label, tau
        return {
            "target": self.weight * self.alpha * (target_class(*given).mean() * tau**2),
            "non_target": self.weight * self.beta * (non_target_class(*given).mean() * tau**2),
        }
