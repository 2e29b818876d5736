"""ReviewKD: each teacher stage teaches a fusion of all deeper student stages.

Chen, Liu, Zhao, Jia. Distilling Knowledge via Knowledge Review. CVPR 2021.
https://arxiv.org/abs/2104.09044
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import mse, ramp
from kdbench.methods.ab import signed

Side = tuple[int, int]


class ABF(nn.Module):
    """Attention-based fusion of a student map with what the deeper levels left over.

    Args:
        c_s: channels of the student's map.
        mid: channels of the fused map.
        c_t: channels of the teacher's map.
        deepest: there is nothing deeper to fuse with.
    """

    def __init__(self, c_s: int, mid: int, c_t: int, *, deepest: bool) -> None:
        super().__init__()
        narrow, wide = nn.Conv2d(c_s, mid, 1, bias=False), nn.Conv2d(mid, c_t, 3, padding=1, bias=False)
        for conv in (narrow, wide):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.inward = nn.Sequential(narrow, nn.BatchNorm2d(mid))
        self.outward = nn.Sequential(wide, nn.BatchNorm2d(c_t))
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)

    def forward(self, feat: Tensor, deeper: Tensor | None, side: Side) -> tuple[Tensor, Tensor]:
        """(B, C_S, H, W), fused (B, mid, ., .) -> (B, C_T, *side), fused (B, mid, *side)."""
        fused = self.inward(feat)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:])
            gates = torch.sigmoid(self.attention(torch.cat((fused, deeper), dim=1)))  # (B, 2, H, W)
            fused = fused * gates[:, :1] + deeper * gates[:, 1:]
        if fused.shape[2:] != side:
            fused = F.interpolate(fused, side)
        return self.outward(fused), fused


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: mean squared error at full side and of 4x4, 2x2 and 1x1 means."""
    loss, share, shares = mse(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side < student.shape[2]:
            share /= 2
            shares += share
            ours, theirs = (F.adaptive_avg_pool2d(feat, side) for feat in (student, teacher))
            loss = loss + share * mse(ours, theirs)
    return loss / shares


@register
class ReviewKD(Distiller):
    """loss = CE + KD + beta * min(1, progress / warmup) * sum of HCL over the levels.

    Levels are the stages and, deepest of all, the pooled vector as a 1x1 map. The student's maps
    are post-ReLU, the teacher's pre-ReLU; with unequal numbers of stages the deepest are paired.
    """

    reference = "Chen et al. Distilling Knowledge via Knowledge Review. CVPR 2021. https://arxiv.org/abs/2104.09044"
    provenance = "port"
    deviations = (
        "The weight grows with every step over the warm-up; the release raises it once an epoch.",
        "The teacher is in eval mode, as in mdistiller; the authors' CIFAR script leaves it in training mode.",
        "A teacher without taps before its ReLUs is read after them.",
        "With unequal numbers of stages the deepest are paired; the release lists the levels of each pair by hand.",
    )

    def __init__(self, pair: Pair, *, beta: float = 5.0, warmup: float = 20 / 240, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta, self.warmup = beta, warmup
        self.depth = min(len(pair.student.feats), len(pair.teacher.feats)) - 1
        ours, theirs = (
            [feat[0] for feat in side.feats[: -self.depth - 1 : -1]] for side in (pair.student, pair.teacher)
        )
        widths = list(zip([pair.student.pooled, *ours], [pair.teacher.pooled, *theirs], strict=True))
        mid = min(512, widths[0][0])
        self.abf = nn.ModuleList(ABF(c_s, mid, c_t, deepest=not i) for i, (c_s, c_t) in enumerate(widths))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        def levels(outputs: Outputs, maps: tuple[Tensor, ...]) -> list[Tensor]:
            return [outputs.pooled[:, :, None, None], *maps[: -self.depth - 1 : -1]]

        total, fused = student.logits.new_zeros(()), None
        ours, theirs = levels(student, student.feats), levels(teacher, signed(teacher))
        for abf, feat, target in zip(self.abf, ours, theirs, strict=True):
            out, fused = abf(feat, fused, target.shape[2:])
            total = total + hcl(out, target)
        grown = ramp(batch.progress, self.warmup)
        return {"review": self.beta * grown * total}
