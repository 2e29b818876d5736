"""Label smoothing, a control without a teacher: part of every label goes to the other classes.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna. Rethinking the Inception Architecture for Computer Vision.
CVPR 2016. https://arxiv.org/abs/1512.00567
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register


@register
class LabelSmoothing(Distiller):
    """loss = ce_weight * CE(z_S, q), where q has 1 - eps on the label and eps spread evenly.

    The loss is linear in q, so it is plain CE plus a term ``smoothing``: the curve of ``ce`` stays
    comparable with that of the plain student.

    Args:
        pair: shapes and facts of the pair.
        eps: share of the label that is spread, in [0, 1).
        spread: over ``all`` K classes, the label's own included (the paper, PyTorch), or over the
            K - 1 ``others`` (the Tf-KD repository).
        ce_weight: weight of the whole loss.

    Raises:
        ValueError: ``eps`` or ``spread`` is none of these.
    """

    reference = "Szegedy et al. Rethinking the Inception Architecture. CVPR 2016. https://arxiv.org/abs/1512.00567"
    provenance = "formula"
    needs_hard_labels = own_cross_entropy = True
    roles: ClassVar = {"smoothing": "task"}
    family = "control"
    needs_teacher = False
    reads = "logits"
    search: ClassVar = {"eps": (0.01, 0.03, 0.05, 0.1, 0.2, 0.4)}  # ten times the default is no share

    def __init__(
        self, pair: Pair, *, eps: float = 0.1, spread: Literal["all", "others"] = "all", ce_weight: float = 1.0
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        if not 0 <= eps < 1:
            raise ValueError(f"label_smoothing: eps={eps:g} is no share of a label; take 0 to below 1")
        if spread not in ("all", "others"):
            raise ValueError(f"label_smoothing: spread={spread!r} is neither 'all' nor 'others'")
        k = pair.num_classes
        self.moved = eps if spread == "all" else eps * k / (k - 1)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        uniform = -F.log_softmax(student.logits, dim=1).mean()  # CE with the uniform label
        plain = F.cross_entropy(student.logits, batch.label)
        return {"smoothing": self.ce_weight * self.moved * (uniform - plain)}
