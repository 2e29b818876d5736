"""MKL: KL at several margins, the teacher's top class and the student's label class lowered by each in turn.

NTCE-KD: Non-Target-Class-Enhanced Knowledge Distillation. https://github.com/lan-long/NTCE-KD

m is the teacher's margin, its first logit less its second. Lowered by m both are equal, by 2 m the first stands as
far below as it stood above, so the classes behind them weigh more and more in the soft labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import at_class, full_precision, ramp

_STEP = 0.5


def lowered(z: Tensor, at: Tensor, by: Tensor) -> Tensor:
    """(B, K) logits with those of the classes ``at``, (B,), lowered ``by`` (B,)."""
    return z - at_class(at, z) * by[:, None]


@full_precision
def at_margins(z_s: Tensor, z_t: Tensor, label: Tensor, factors: Sequence[float], tau: float) -> Tensor:
    """(B, K) logits each and (B,) labels -> (): the mean over ``factors`` of KL, phi times the margin taken away."""
    first, second = z_t.topk(2, dim=1).values.unbind(dim=1)
    margin, top = first - second, z_t.argmax(dim=1)
    each = [kl(lowered(z_s, label, phi * margin), lowered(z_t, top, phi * margin), tau) for phi in factors]
    return torch.stack(each).mean()


@register
class MKL(Distiller):
    """loss = CE + min(progress / warmup, 1) * weight * mean over phi of KL_tau(z_S - phi m 1_y, z_T - phi m 1_top).

    phi runs from ``highest`` down to ``lowest`` in steps of one half. The mean stands in for the KD term, which is
    therefore not offered.

    Args:
        pair: of teacher and student.
        weight: of the mean.
        highest: the first phi.
        lowest: the last; 0 where resnet32x4 teaches, else -1.
        warmup: share of the training over which the loss grows.
        ce_weight: weight of the cross-entropy.
        tau: temperature.

    Raises:
        ValueError: there is no whole number of steps, or more than 100, from the highest phi down to the lowest.
    """

    reference = "NTCE-KD: Non-Target-Class-Enhanced Knowledge Distillation. https://github.com/lan-long/NTCE-KD"
    provenance = "formula"
    needs_hard_labels = True
    deviations = (
        "MKL alone, without the augmentation beside it, whose released branch does not run.",
        "The warm-up grows with every step over 20/240 of the training; in the release it grows with every epoch.",
        "The weight of the cross-entropy is taken to be 1, as where DKD is trained.",
        "The release has no licence: this is written from its formula and holds none of its text.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "weight"

    def __init__(
        self,
        pair: Pair,
        *,
        weight: float = 8.0,
        highest: float = 2.0,
        lowest: float = 0.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        steps = (highest - lowest) / _STEP
        if not (0 <= steps <= 100 and steps == round(steps)):
            raise ValueError(
                f"mkl: highest={highest:g} and lowest={lowest:g} are no whole number of halves apart; take 2 and 0, or"
                " 2 and -1"
            )
        self.weight, self.warmup = weight, warmup
        self.factors = [highest - _STEP * number for number in range(round(steps) + 1)]

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = at_margins(student.logits, teacher.logits, batch.label, self.factors, self.tau)
        grown = ramp(batch.progress, self.warmup)
        return {"margins": grown * self.weight * loss}
