"""FSP: copy how the teacher's maps flow into each other, before training.

Yim, Joo, Bae, Kim. A Gift from Knowledge Distillation: Fast Optimization, Network Minimization
and Transfer Learning. CVPR 2017. https://doi.org/10.1109/CVPR.2017.754

Only a pre-training stage distils: it trains the student's body on the channel-by-channel products of
successive maps. The main stage is ordinary training.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision
from kdbench.methods._pairs import must_show_stages


@full_precision
def flow(lower: Tensor, upper: Tensor) -> Tensor:
    """(B, C1, H1, W1), (B, C2, H2, W2) -> (B, C1, C2): products averaged over positions."""
    side = (min(lower.shape[2], upper.shape[2]), min(lower.shape[3], upper.shape[3]))
    lower, upper = (F.adaptive_avg_pool2d(feat, side).flatten(2) for feat in (lower, upper))
    return torch.bmm(lower, upper.transpose(1, 2)) / lower.shape[2]


@register
class FSP(Distiller):
    """First stage: sum over successive taps of mean (G_S - G_T)^2, G the flow; then CE + KD.

    The stem counts as a tap.

    Raises:
        ValueError: the models differ in the number of taps or in the channels of one, or show their stem alone.
    """

    reference = "Yim et al. A Gift from Knowledge Distillation. CVPR 2017. https://doi.org/10.1109/CVPR.2017.754"
    provenance = "port"
    deviations = (
        "Flows join successive stages, as in RepDistiller; the paper joins the first and last map of each stage.",
        "Maps are average-pooled to a common side, as in RepDistiller; the paper max-pools.",
        "The whole student is in training mode in the pre-training stage; RepDistiller keeps what lies outside the"
        " feature modules in eval mode.",
    )
    family = "two-stage"
    reads = "logits"
    search: ClassVar = {}  # one term, alone in its stage
    pretrain_epochs = 30
    pretrain_student = True

    def __init__(self, pair: Pair, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "fsp")
        ours, theirs = ([feat[0] for feat in side.feats] for side in (pair.student, pair.teacher))
        if ours != theirs:
            raise ValueError(f"fsp: the taps must have equal channels; the student has {ours}, the teacher {theirs}")

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        total = student.logits.new_zeros(())
        for tap in range(1, len(student.feats)):
            ours, theirs = (flow(side.feats[tap - 1], side.feats[tap]) for side in (student, teacher))
            total = total + F.mse_loss(ours, theirs)
        return {"flow": total}
