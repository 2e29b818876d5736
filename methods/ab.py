"""AB: before training, give every student neuron the sign of a teacher neuron.

Heo, Lee, Yun, Choi. Knowledge Transfer via Distillation of Activation Boundaries Formed by
Hidden Neurons. AAAI 2019. https://arxiv.org/abs/1811.03233

Only a pre-training stage distils: it trains the student's body and the connectors on the signs of the
pre-ReLU maps. The main stage is ordinary training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, pool
from kdbench.methods._pairs import must_show_stages
from kdbench.methods.fitnet import regressor

_SCALE = 3 / 1000  # constant of the release


def signed(outputs: Outputs) -> tuple[Tensor, ...]:
    """The stages' maps before their last ReLU; as they are where the model has no such tap."""
    return (outputs.feats if outputs.preacts is None else outputs.preacts)[1:]


@full_precision  # the sum over a map passes the largest number of half precision
def boundary(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Sum over (C, H, W), mean over B, of the squared way to the teacher's side of the margin."""
    missing = torch.where(teacher > 0, F.relu(margin - student), F.relu(margin + student))
    return missing.pow(2).sum() / len(student)


@register
class AB(Distiller):
    """First stage: sum over stages l = 1..L of 3/1000 * 2^(l-L) * boundary loss; then CE + KD.

    The boundary loss sums (m - s)^2 where t > 0 and s <= m, (m + s)^2 where t <= 0 and s > -m, with
    s the connected student map, t the teacher map and m the ``margin``.

    Raises:
        ValueError: the models have different numbers of stages, or none.
    """

    reference = (
        "Heo et al. Knowledge Transfer via Distillation of Activation Boundaries. AAAI 2019."
        " https://arxiv.org/abs/1811.03233"
    )
    provenance = "port"
    deviations = (
        "A model without taps before its ReLUs is read after them: then only a zero counts as off.",
        "The whole student is in training mode in the pre-training stage; RepDistiller keeps what lies outside the"
        " feature modules (a WRN's last batch norm) in eval mode and does not train it.",
        "Where the connector cannot reach the teacher's side, the teacher's map is average-pooled; RepDistiller fails.",
    )
    family = "two-stage"
    reads = "logits"
    main_weight = "margin"  # the pre-training stage has one term, whose weight would change nothing but its step
    pretrain_epochs = 30
    pretrain_student = True

    def __init__(self, pair: Pair, *, margin: float = 1.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "ab")
        ours, theirs = pair.student.feats[1:], pair.teacher.feats[1:]
        if len(ours) != len(theirs):
            raise ValueError(
                f"ab: the student has {len(ours)} stages, the teacher {len(theirs)}; it pairs them one to one"
            )
        self.margin = margin
        self.connector = nn.ModuleList(
            nn.Identity() if s == t else regressor(s, t, relu=False) for s, t in zip(ours, theirs, strict=True)
        )

    def on_stage(self, stage: str) -> None:
        self.connector.requires_grad_(stage == "pretrain").train(stage == "pretrain")

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        total, deepest = student.logits.new_zeros(()), len(self.connector) - 1
        maps = zip(self.connector, signed(student), signed(teacher), strict=True)
        for stage, (connect, ours, theirs) in enumerate(maps):
            connected = connect(ours)
            target = pool(theirs, (connected.shape[2], connected.shape[3]))
            total = total + _SCALE * 2.0 ** (stage - deepest) * boundary(connected, target, self.margin)
        return {"boundary": total}
