"""AFD-SE: match normalised channel maps, weighted by how much the teacher attends to each channel.

Wang, Gao, Zhao, Li, Dou, Xu. Pay Attention to Features, Transfer Learn Faster CNNs. ICLR 2020.
https://openreview.net/forum?id=ryxyCeHtPB

Not AFD of AAAI 2021 (``afd``): this is the variant that the repository of multi-granularity
distillation calls AFD, https://github.com/shaoeric/multi-granularity-distillation.
"""

import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._pairs import must_show_stages


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation of the teacher's map, (B, C, H, W) -> (B, C), rows sum to 1."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, int(channels * ratio))
        self.excite = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, feat: Tensor) -> Tensor:
        """Attention of each image."""
        gates = torch.sigmoid(self.excite(feat.mean(dim=(2, 3), keepdim=True)).flatten(1))
        return gates / gates.sum(dim=1, keepdim=True).clamp_min(1e-6)


def unit(feat: Tensor, eps: float) -> Tensor:
    """(B, C, H, W) -> (B, C, H W), every channel's map of (nearly) unit length."""
    maps = feat.flatten(2)
    scaled: Tensor = maps / (maps.norm(dim=2, keepdim=True) + eps)
    return scaled


@register
class AFDSE(Distiller):
    """loss = CE + KD + beta * sum over stages of mean_B sum_c rho_c mean (n(F_S)_c - n(F_T)_c)^2.

    rho is the teacher's channel attention, trained with the student; n scales each channel's map
    to unit length.

    Raises:
        ValueError: the stages of the two models differ in number, channels or side, or there are none; eps is 0.
    """

    reference = (
        "Wang et al. Pay Attention to Features, Transfer Learn Faster CNNs. ICLR 2020."
        " https://openreview.net/forum?id=ryxyCeHtPB"
    )
    provenance = "port"
    deviations = (
        "The channel attention is a squeeze-and-excitation block, as in the multi-granularity repository, not the"
        " paper's.",
        "Neither the weight nor the block's ratio is stated there; ours are AT's 1000, whose term has the same scale,"
        " and 1/2.",
    )

    def __init__(
        self, pair: Pair, *, beta: float = 1000.0, ratio: float = 0.5, eps: float = 1e-6, **common: float
    ) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "afd_se")
        ours, theirs = pair.student.feats[1:], pair.teacher.feats[1:]
        if ours != theirs:
            raise ValueError(f"afd_se: the stages must have equal shapes; the student has {ours}, the teacher {theirs}")
        if not eps > 0:
            raise ValueError(f"afd_se: eps={eps:g} divides an empty channel by 0; take more than 0")
        self.beta, self.eps = beta, eps
        self.attention = nn.ModuleList(ChannelAttention(c, ratio) for c, _, _ in theirs)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        total = student.logits.new_zeros(())
        for attention, ours, theirs in zip(self.attention, student.feats[1:], teacher.feats[1:], strict=True):
            distance = (unit(ours, self.eps) - unit(theirs, self.eps)).pow(2).mean(dim=2)  # (B, C)
            total = total + (attention(theirs) * distance).sum(dim=1).mean()
        return {"channels": self.beta * total}
