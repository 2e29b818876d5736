"""NST: the student's channels, as a set, must fire where the teacher's do.

Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer.
2017. https://arxiv.org/abs/1707.01219
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, meet
from kdbench.methods._pairs import must_show_stages
from kdbench.methods._products import matmul

EPS = 1e-24  # of squared lengths: a channel that is 0 everywhere has no direction


def products(x: Tensor) -> Tensor:
    """(B, C, HW) -> (B, C, C), inner products of the channels."""
    # By one side alone and doubled, the gradient of a symmetric function of them takes half the work.
    half = matmul(x, x.detach().mT)
    return 2 * half - half.detach()


def inverse_length(own: Tensor) -> Tensor:
    """(B, C, C) inner products of the channels -> (B, C), one over their lengths."""
    return own.diagonal(dim1=1, dim2=2).clamp_min(EPS).rsqrt()


def by_channels(s: Tensor, t: Tensor) -> Tensor:
    """(B, C_S, HW) and (B, C_T, HW) -> (), from the kernels between channels, (B, C, C') each."""
    own_s, own_t = products(s), products(t)
    len_s, len_t = inverse_length(own_s), inverse_length(own_t)

    def mean(product: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return (product * rows[:, :, None] * columns[:, None]).square().mean()

    between = matmul(s, t.mT)
    return mean(own_t, len_t, len_t) + mean(own_s, len_s, len_s) - 2 * mean(between, len_s, len_t)


def by_positions(s: Tensor, t: Tensor) -> Tensor:
    """The same from (B, HW, HW), because sum over c, c' of <x_c, y_c'>^2 = <X'X, Y'Y>."""
    units = (F.normalize(maps, dim=2) for maps in (s, t))
    gram_s, gram_t = (matmul(unit.mT, unit) / unit.shape[1] for unit in units)
    return (gram_s - gram_t).square().sum(dim=(1, 2)).mean()


@full_precision
def discrepancy(f_s: Tensor, f_t: Tensor) -> Tensor:
    """(B, C, H, W) each -> (), squared MMD between the sets of channels; the larger map is pooled down."""
    s, t = (f.flatten(2) for f in meet(f_s, f_t))
    (c_s, positions), c_t = s.shape[1:], t.shape[1]
    less_work = positions * (c_s + c_t) < c_s**2 + c_s * c_t + c_t**2
    return by_positions(s, t) if less_work else by_channels(s, t)


@register
class NST(Distiller):
    """loss = CE + KD + beta * sum over stages of MMD^2(F_S, F_T), kernel k(x, y) = <x, y>^2.

    A channel is one sample: its map as a unit vector.

    Raises:
        ValueError: one of the nets shows no stage beside its stem.
    """

    reference = (
        "Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017."
        " https://arxiv.org/abs/1707.01219"
    )
    provenance = "port"
    deviations = (
        "All stages that both nets have are matched, in order, as in the suites that report NST.",
        "Only the polynomial kernel (degree 2, offset 0) is offered, as in those suites.",
    )

    def __init__(self, pair: Pair, *, beta: float = 50.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "nst")
        self.beta = beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        stages = zip(student.feats[1:], teacher.feats[1:], strict=False)
        return {"mmd": self.beta * torch.stack([discrepancy(s, t) for s, t in stages]).sum()}
