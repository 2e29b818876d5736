"""AFD: an attention over all pairs of layers decides which student layer learns from which teacher layer.

Ji, Heo, Park. Show, Attend and Distill: Knowledge Distillation via Attention-based Feature
Matching. AAAI 2021. https://arxiv.org/abs/2102.02973
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import mean_square
from kdbench.methods._pairs import must_show_stages
from kdbench.methods.ft import attention


def projection(d_in: int, d_out: int, *, relu: bool = False) -> nn.Sequential:
    """(B, d_in) -> (B, d_out), normalised over the batch."""
    return nn.Sequential(nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), *([nn.ReLU()] if relu else []))


def energy(feat: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, 1, *size): mean square over channels, average-pooled."""
    return F.adaptive_avg_pool2d(mean_square(feat, (3,))[:, None], size)


@register
class AFD(Distiller):
    """loss = CE + KD + beta * sum_t mean_B sum_s alpha_ts mean (n(F_S^s) - n(F_T^t))^2.

    alpha is a softmax over the S student stages of a bilinear form between a key of the student's
    and a query of the teacher's channel means, plus learned positions; n is the map of mean squares
    over channels at the teacher's size, of unit length.

    Raises:
        ValueError: one of the nets shows no stage beside its stem.
    """

    reference = "Ji, Heo, Park. Show, Attend and Distill. AAAI 2021. https://arxiv.org/abs/2102.02973"
    provenance = "authors' code"
    deviations = (
        "The candidates are the stages of the networks; the authors' are all their residual blocks (WRN-40-2: 18).",
    )

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 200.0,
        qk_dim: int = 128,
        ce_weight: float = 1.0,
        kd_weight: float = 0.9,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        must_show_stages(pair, "afd")
        self.beta, self.qk_dim = beta, qk_dim
        ours, theirs = pair.student.feats[1:], pair.teacher.feats[1:]
        self.sizes = [(h, w) for _, h, w in theirs]
        self.key = nn.ModuleList(projection(c, qk_dim, relu=True) for c, _, _ in ours)
        self.query = nn.ModuleList(projection(c, qk_dim) for c, _, _ in theirs)
        self.bilinear = projection(qk_dim, qk_dim * len(theirs))
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(ours), qk_dim)))
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(theirs), qk_dim)))

    def attend(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """Stages' maps of both sides -> alpha (B, T, S), rows sum to 1."""
        keys = torch.stack([key(f.mean(dim=(2, 3))) for key, f in zip(self.key, student, strict=True)], dim=1)
        query = torch.stack([query(f.mean(dim=(2, 3))) for query, f in zip(self.query, teacher, strict=True)], dim=1)
        b, s, d = keys.shape
        keys = self.bilinear(keys.reshape(b * s, d)).reshape(b, s, -1, d)  # (B, S, T, D), one key per teacher stage
        match = torch.einsum("bstd,btd->bts", keys, query) + self.position_t @ self.position_s.T
        return F.softmax(match / self.qk_dim**0.5, dim=2)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = student.feats[1:], teacher.feats[1:]
        alpha = self.attend(ours, theirs)
        total = student.logits.new_zeros(())
        for t, (feat, size) in enumerate(zip(theirs, self.sizes, strict=True)):
            target = attention(feat)  # (B, H W)
            maps = (F.normalize(energy(f, size).flatten(1)) for f in ours)
            distance = torch.stack([(m - target).pow(2).mean(dim=1) for m in maps], dim=1)  # (B, S)
            total = total + (alpha[:, t] * distance).sum(dim=1).mean()
        return {"attention": self.beta * total}
