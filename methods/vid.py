"""VID: raise a bound on what the student's maps tell about the teacher's.

Ahn, Hu, Damianou, Lawrence, Dai. Variational Information Distillation for Knowledge Transfer.
CVPR 2019. https://arxiv.org/abs/1904.05835

A small net guesses the teacher's map from the student's, as a Gaussian whose variance it learns for each
teacher channel: a channel that cannot be guessed costs little instead of dominating the loss.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, mean_square, meet
from kdbench.methods._pairs import must_show_stages

INITIAL_VARIANCE = 5.0
LEAST_VARIANCE = 1e-5


def mean(c_s: int, c_t: int) -> nn.Sequential:
    """(B, C_S, H, W) -> (B, C_T, H, W), the mean of the Gaussian."""
    return nn.Sequential(
        nn.Conv2d(c_s, c_t, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_t, c_t, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_t, c_t, 1, bias=False),
    )


@full_precision
def surprise(mu: Tensor, target: Tensor, rho: Tensor) -> Tensor:
    """mu, target (B, C, H, W), rho (C,) -> (), negative log density of the target, constant left out."""
    variance = F.softplus(rho) + LEAST_VARIANCE
    squares = mean_square(mu, (0, 1, 2), target)  # (C,)
    return (squares / variance + variance.log()).mean() / 2


@register
class VID(Distiller):
    """loss = CE + KD + beta * sum over stages of mean [(F_T - mu(F_S))^2 / s^2 + log s^2] / 2.

    s^2 = softplus(rho) + 1e-5, one rho per teacher channel, begins at 5; mu is three 1x1 convolutions.
    The larger map is pooled to the smaller side first.

    Raises:
        ValueError: one of the nets shows no stage beside its stem.
    """

    reference = (
        "Ahn et al. Variational Information Distillation for Knowledge Transfer. CVPR 2019."
        " https://arxiv.org/abs/1904.05835"
    )
    provenance = "port"
    deviations = (
        "Paper: the logits are guessed too, and squares are summed; here, as released for the benchmark, stages only"
        " and the mean.",
        "Stages beyond the shorter net's last are left out.",
        "rho trains with the student's optimizer, weight decay included, as released.",
    )
    family = "feature"

    def __init__(self, pair: Pair, *, beta: float = 1.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "vid")
        widths = [(s[0], t[0]) for s, t in zip(pair.student.feats[1:], pair.teacher.feats[1:], strict=False)]
        self.beta = beta
        start = math.log(math.expm1(INITIAL_VARIANCE - LEAST_VARIANCE))  # softplus of it gives the variance back
        self.means = nn.ModuleList(mean(c_s, c_t) for c_s, c_t in widths)
        self.rho = nn.ParameterList(torch.full((c_t,), start) for _, c_t in widths)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for mu, rho, *maps in zip(self.means, self.rho, student.feats[1:], teacher.feats[1:], strict=False):
            f_s, f_t = meet(*maps)
            losses.append(surprise(mu(f_s), f_t, rho))
        return {"surprise": self.beta * torch.stack(losses).sum()}
