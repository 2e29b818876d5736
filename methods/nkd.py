"""NKD: split the soft cross-entropy at the label, and make the other classes sum to one on both sides.

Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified
Approach with Normalized Loss and Customized Soft Labels. ICCV 2023. https://arxiv.org/abs/2303.13005
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import at_class, full_precision
from kdbench.methods.dkd import log_others


@full_precision
def target(z_s: Tensor, z_t: Tensor, label: Tensor) -> Tensor:
    """A, (): -p_T(y) log p_S(y) at temperature 1, mean over the batch."""
    log_s, log_t = (F.log_softmax(z, dim=1).gather(1, label[:, None]) for z in (z_s, z_t))
    return -(log_t.exp() * log_s).mean()


@full_precision
def non_target(z_s: Tensor, z_t: Tensor, label: Tensor, tau: float) -> Tensor:
    """N, (): tau^2 times the soft cross-entropy among the other classes, mean over the batch."""
    hit = at_class(label, z_s)
    log_s, log_t = log_others(z_s / tau, hit), log_others(z_t / tau, hit)  # log_s is 0 at the label
    return -(log_t.exp() * log_s).sum(dim=1).mean() * tau**2


@register
class NKD(Distiller):
    """loss = CE + A + gamma * N, A = -mean p_T(y) log p_S(y), N = -tau^2 mean sum_{c != y} q_T(c) log q_S(c).

    q are the probabilities among the classes other than the label y, at temperature tau; A is at 1. Both
    hold the teacher's entropy, so they are not 0 for equal logits. A and N stand in for the KD term, which
    is therefore not offered.
    """

    reference = (
        "Yang et al. From Knowledge Distillation to Self-Knowledge Distillation. ICCV 2023."
        " https://arxiv.org/abs/2303.13005"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    roles: ClassVar = {"target": "target"}
    deviations = (
        "The label's column is masked instead of cut out, which gives the same numbers.",
        "The defaults are the authors' for ImageNet; for CIFAR-100 they take gamma 3.5 and tau 3, as our conventions"
        " do but on ImageNet's pairs, and publish no weights for CIFAR-100's usual ones.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "gamma"

    def __init__(self, pair: Pair, *, gamma: float = 1.5, ce_weight: float = 1.0, tau: float = 1.0) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        self.gamma = gamma

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        given = student.logits, teacher.logits, batch.label
        return {"target": target(*given), "non_target": self.gamma * non_target(*given, self.tau)}
