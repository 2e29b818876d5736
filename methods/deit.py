"""DeiT: a token of its own learns from the teacher, and another one from the labels.

Touvron, Cord, Douze, Massa, Sablayrolles, Jegou. Training data-efficient image transformers & distillation through
attention. ICML 2021. https://arxiv.org/abs/2012.12877
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import full_precision

TARGETS = ("hard", "soft")


@full_precision
def cross_entropy(z: Tensor, truth: Tensor) -> Tensor:
    """(B, K) logits, (B,) classes or (B, K) probabilities -> (), mean over the batch."""
    return F.cross_entropy(z, truth)


@register
class DeiT(Distiller):
    """loss = (1 - weight) CE(z_cls, y) + weight * D(z_dist, z_T); prediction = mean of both heads' logits.

    D = CE(z_dist, argmax z_T) for hard targets, KL_tau(z_dist, z_T) for soft ones. z_cls and z_dist are the logits of
    the heads on the class token and on the distillation token. A student with one head has no such token: z_cls and
    z_dist are then its logits, which is the paper's distillation without the token. D stands in for the KD term,
    which is therefore not offered; ``ce_weight`` would weigh a cross-entropy of the mean of both heads, and is 0.

    Args:
        pair: of teacher and student.
        targets: hard, or soft, for which the paper takes weight .1 and tau 3.
        weight: of the teacher, lambda.
        ce_weight: see above.
        tau: temperature of soft targets.

    Raises:
        ValueError: no such targets; the weight is no share.
    """

    reference = (
        "Touvron et al. Training data-efficient image transformers & distillation through attention. ICML 2021."
        " https://arxiv.org/abs/2012.12877"
    )
    provenance = "formula"
    roles: ClassVar = {"class_token": "task"}
    deviations = (
        "The mean of both heads' logits is evaluated, as the release does; the paper adds their probabilities.",
        "KL is the mean over images; the release divides it by the number of classes, too.",
    )
    family = "logit"
    reads = "logits"
    search: ClassVar = {"weight": (0.1, 0.25, 0.4, 0.5, 0.75, 0.9)}

    def __init__(
        self,
        pair: Pair,
        *,
        targets: Literal["hard", "soft"] = "hard",
        weight: float = 0.5,
        ce_weight: float = 0.0,
        tau: float = 3.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        if targets not in TARGETS:
            raise ValueError(f"deit: targets={targets!r}; the teacher's are {' or '.join(TARGETS)}")
        if not 0 <= weight <= 1:
            raise ValueError(f"deit: weight={weight:g} is no share of the loss; give 0 to 1")
        self.targets, self.weight = targets, weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        z_cls, z_dist = student.heads or (student.logits, student.logits)
        if self.targets == "hard":
            taught = cross_entropy(z_dist, teacher.logits.argmax(dim=1))
        else:
            taught = kl(z_dist, teacher.logits, self.tau)
        return {
            "class_token": (1 - self.weight) * cross_entropy(z_cls, batch.truth),
            "distillation_token": self.weight * taught,
        }
