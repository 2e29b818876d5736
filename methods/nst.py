"""NST: the student's channels, as a set, must fire where the teacher's do.

Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer.
2017. https://arxiv.org/abs/1707.01219
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


def kernel_mean(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, HW) and (B, C', HW) -> (), mean of <x_c, y_c'>^2 over images and pairs of channels."""
    return torch.bmm(x, y.transpose(1, 2)).square().mean()


@full_precision
def discrepancy(f_s: Tensor, f_t: Tensor) -> Tensor:
    """(B, C, H, W) each -> (), squared MMD between the sets of channels; the larger map is pooled down."""
    side = min(f_s.shape[2], f_t.shape[2]), min(f_s.shape[3], f_t.shape[3])
    s, t = (F.normalize(F.adaptive_avg_pool2d(f, side).flatten(2), dim=2) for f in (f_s, f_t))
    return kernel_mean(t, t) + kernel_mean(s, s) - 2 * kernel_mean(s, t)


@register
class NST(Distiller):
    """loss = CE + KD + beta * sum over stages of MMD^2(F_S, F_T), kernel k(x, y) = <x, y>^2.

    A channel is one sample: its map as a unit vector.
    """

    reference = (
        "Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017."
        " https://arxiv.org/abs/1707.01219"
    )
    provenance = "port"
    departures = (
        "All stages that both nets have are matched, in order, as in the suites that report NST.",
        "Only the polynomial kernel (degree 2, offset 0) is offered, as in those suites.",
    )

    def __init__(self, pair: Pair, *, beta: float = 50.0, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta = beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        stages = zip(student.feats[1:], teacher.feats[1:], strict=False)
        return {"mmd": self.beta * torch.stack([discrepancy(s, t) for s, t in stages]).sum()}
