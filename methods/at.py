"""AT: the student must look where the teacher looks.

Zagoruyko, Komodakis. Paying More Attention to Attention: Improving the Performance of Convolutional
Neural Networks via Attention Transfer. ICLR 2017. https://arxiv.org/abs/1612.03928

Where a net looks is the energy of its map at each position. Stages are paired by their order, not by
their size: the fourth of a VGG has no partner in a ResNet of three.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, mean_square, meet
from kdbench.methods._pairs import must_show_stages


def attention(feat: Tensor, p: float) -> Tensor:
    """(B, C, H, W) -> (B, HW), mean over channels of |F|^p as a vector of length one."""
    energy = mean_square(feat, (3,)) if p == 2 else feat.movedim(1, -1).abs().pow(p).mean(dim=3)
    return F.normalize(energy.flatten(1), dim=1)


@full_precision
def distance(f_s: Tensor, f_t: Tensor, p: float) -> Tensor:
    """(B, C, H, W) each -> (), mean over images and positions of the squared difference of attentions."""
    ours, theirs = meet(f_s, f_t)
    return F.mse_loss(attention(ours, p), attention(theirs, p))


@register
class AT(Distiller):
    """loss = CE + KD + beta * sum over stages of mean (A(F_S) - A(F_T))^2, A = unit vector of mean_c |F|^p.

    Raises:
        ValueError: one of the nets shows no stage beside its stem; p is not above 0.
    """

    reference = "Zagoruyko, Komodakis. Paying More Attention to Attention. ICLR 2017. https://arxiv.org/abs/1612.03928"
    provenance = "port"
    deviations = (
        "Paper: a norm of the difference per image; here, as released, the mean of squares over images and positions,"
        " which is what beta = 1000 goes with.",
        "Stages beyond the shorter net's last are left out.",
    )
    family = "feature"

    def __init__(self, pair: Pair, *, p: float = 2.0, beta: float = 1000.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "at")
        if not p > 0:
            raise ValueError(f"at: p={p:g} makes every attention the same, or divides by what is off; take more than 0")
        self.p, self.beta = p, beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        stages = zip(student.feats[1:], teacher.feats[1:], strict=False)
        return {"attention": self.beta * torch.stack([distance(s, t, self.p) for s, t in stages]).sum()}
