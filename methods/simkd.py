"""SimKD: keep the teacher's classifier and teach the student to feed it.

Chen, Mei, Zhang, Wang, Feng, Chen. Knowledge Distillation with the Reused Teacher Classifier.
CVPR 2022. https://arxiv.org/abs/2203.14001

No label and no logit is used. What is evaluated is the student's body, the projector and the
teacher's head, so the network is larger than the plain student.
"""

from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import mse, pool


def projector(c_s: int, c_t: int, factor: int) -> nn.Sequential:
    """(B, C_S, H, W) -> (B, C_T, H, W), none negative; C_T // factor channels between."""
    mid = c_t // factor
    return nn.Sequential(
        nn.Conv2d(c_s, mid, 1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, c_t, 1, bias=False),
        nn.BatchNorm2d(c_t),
        nn.ReLU(),
    )


@register
class SimKD(Distiller):
    """loss = beta * mean (P(F_S) - F_T)^2; prediction = h_T(P(F_S)).

    F_S is the student's deepest stage, F_T the map that the teacher's head h_T pools; the larger is
    average-pooled to the smaller side. The method is this term alone: keep ``ce_weight`` and
    ``kd_weight`` at 0 for it, since they would train the student's own, unused classifier.

    Raises:
        ValueError: ``factor`` leaves the projector without channels.
    """

    reference = (
        "Chen et al. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022."
        " https://arxiv.org/abs/2203.14001"
    )
    provenance = "authors' code"
    deviations = (
        "The teacher's map is the one its head pools. The release takes the last map of a list instead, which in a WRN"
        " lies before the last batch norm, and so swaps WRN teachers for other nets; here they are served.",
        "A student larger than the teacher's map is pooled before the projector also in evaluation, as released.",
    )
    family = "modified student"

    def __init__(
        self,
        pair: Pair,
        *,
        factor: int = 2,
        beta: float = 1.0,
        ce_weight: float = 0.0,
        kd_weight: float = 0.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        (c_s, h_s, w_s), (c_t, h_t, w_t) = pair.student.feats[-1], pair.teacher.last
        if not 1 <= factor <= c_t:
            raise ValueError(f"simkd: factor={factor} does not divide {c_t} teacher channels; take 1 to {c_t}")
        self.beta, self.head = beta, pair.head
        self.side = (min(h_s, h_t), min(w_s, w_t))
        self.projector = projector(c_s, c_t, factor)

    def projected(self, student: Outputs) -> Tensor:
        """P(F_S), (B, C_T, H, W) at the smaller side."""
        mapped: Tensor = self.projector(pool(student.feats[-1], self.side))
        return mapped

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        target = pool(teacher.last, self.side)
        return {"feature": self.beta * mse(self.projected(student), target)}

    def predict(self, student: Outputs) -> Tensor:
        return self.head(self.projected(student))
