"""DSKD, our reading: auxiliary heads let the teacher supervise the student's shallow stages too.

Luo, Chen, Wang. Knowledge Distillation with Deep Supervision.
IJCNN 2023. https://arxiv.org/abs/2202.07846

Only the abstract could be had, and the authors' repository holds no code. The abstract says: teacher
predictions and feature maps supervise shallow layers, weighted by a loss-based allocation. All else
below is ours; quote its numbers as "DSKD (our reading)", never as the authors' method.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import meet, mse


class Branch(nn.Module):
    """Shallow map (B, C, H, W) -> feature (B, C_T, H', W') and logits (B, K); used in training only.

    3x3 convolutions of stride 2 halve the map, as often as it stays at ``side`` or above, and double
    its channels, up to C_T.
    """

    def __init__(self, shape: tuple[int, int, int], side: int, c_t: int, num_classes: int) -> None:
        super().__init__()
        c, h, _ = shape
        layers: list[nn.Module] = []
        while h > side and (h + 1) // 2 >= side:
            wider = min(2 * c, c_t)
            layers += [nn.Conv2d(c, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            c, h = wider, (h + 1) // 2
        self.feature = nn.Sequential(*layers, nn.Conv2d(c, c_t, 1))
        self.classifier = nn.Linear(c_t, num_classes)

    def forward(self, shallow: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C_T, H', W'), (B, K)."""
        feature = self.feature(shallow)
        return feature, self.classifier(feature.mean(dim=(2, 3)))


@register
class DSKD(Distiller):
    """loss = CE + KD + beta * sum over l < L of w_l l_l, with w = (L - 1) softmax_l(stopgrad(l_l) / tau_w).

    l_l = KL_tau(H_l(F_S^l), z_T) + gamma * mean (G_l - F_T)^2 + aux_ce * CE(H_l(F_S^l), y): G_l is the
    branch's feature, H_l its logits, F_T the map that the teacher's head pools; the larger map is
    average-pooled to the smaller. L counts the student's stages, the deepest has no branch.

    Args:
        pair: shapes and facts of the pair.
        gamma: weight of the feature part of l_l. 5 starts it near the size of the KL part (on suite digits,
            resnet20 to resnet8: 25 against 33 in the first epoch).
        tau_w: temperature of the weights; large: all stages weigh the same.
        favour: ``lagging`` stages (larger loss, larger weight) or ``leading`` ones; the abstract does not say.
        aux_ce: weight of the branches' cross-entropy.
        beta: weight of the whole sum.

    Raises:
        ValueError: a student of one stage, or another ``favour``.
    """

    reference = (
        "Luo, Chen, Wang. Knowledge Distillation with Deep Supervision. IJCNN 2023. https://arxiv.org/abs/2202.07846"
    )
    provenance = "reading"
    deviations = (
        "Only the abstract was available: the branches, the feature distance, the form and sign of the loss-based"
        " weights and every default are our choice.",
    )
    family = "feature"
    roles: ClassVar = {"shallow_ce": "task"}

    def __init__(
        self,
        pair: Pair,
        *,
        gamma: float = 5.0,
        tau_w: float = 1.0,
        favour: Literal["lagging", "leading"] = "lagging",
        aux_ce: float = 0.0,
        beta: float = 1.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        shallow, deepest = pair.student.feats[1:-1], pair.student.feats[-1]
        if not shallow:
            raise ValueError("dskd: the student has one stage only; deep supervision needs a shallow one")
        if favour not in ("lagging", "leading"):
            raise ValueError(f"dskd: favour={favour!r} is neither 'lagging' nor 'leading'")
        self.gamma, self.aux_ce, self.beta = gamma, aux_ce, beta
        self.sharpness = (1.0 if favour == "lagging" else -1.0) / tau_w
        c_t = pair.teacher.last[0]
        self.branches = nn.ModuleList(Branch(shape, deepest[1], c_t, pair.num_classes) for shape in shallow)

    def weights(self, losses: Tensor) -> Tensor:
        """(L - 1,) losses -> (L - 1,) weights that sum to L - 1; no gradient passes."""
        return len(losses) * (self.sharpness * losses.detach()).softmax(dim=0)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        logit, feature, label = [], [], []
        for branch, shallow in zip(self.branches, student.feats[1:-1], strict=True):
            g, z = branch(shallow)
            logit.append(kl(z, teacher.logits, self.tau))
            feature.append(mse(*meet(g, teacher.last)))
            label.append(F.cross_entropy(z, batch.truth))
        parts = {"shallow_kd": torch.stack(logit), "shallow_feature": self.gamma * torch.stack(feature)}
        if self.aux_ce:
            parts["shallow_ce"] = self.aux_ce * torch.stack(label)
        w = self.weights(torch.stack(list(parts.values())).sum(dim=0))
        return {name: self.beta * (w * part).sum() for name, part in parts.items()}
