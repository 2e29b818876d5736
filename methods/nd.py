"""ND: the pooled vector should point to the teacher's mean of its class, and be at least as long as the teacher's.

Wang, Cheng, Duan, Wang, Feng, Kong. Improving Knowledge Distillation via Regularizing Feature Direction and Norm.
ECCV 2024. https://arxiv.org/abs/2305.17007

A pre-training stage of one epoch adds up the teacher's vectors by class. It trains nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision

_TINY = 1e-12  # a shorter vector counts as zero


@full_precision
def sums_by_class(pooled: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(B, D), (B,) -> (K, D). A product of matrices: adding by index has no fixed order on CUDA."""
    member = label == torch.arange(num_classes, device=label.device)[:, None]
    return member.to(pooled.dtype) @ pooled


def length(x: Tensor) -> Tensor:
    """(B, D) -> (B,), Euclidean, at least ``_TINY``; the gradient at zero is zero."""
    return x.square().sum(dim=1).clamp(min=_TINY**2).sqrt()


@full_precision
def norm_and_direction(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """(B, D) each -> (): mean of 1 - <s, c / |c|> / max(|s|, |t|); 1 where c is zero, and where s and t are."""
    along = (student * F.normalize(centre, dim=1, eps=_TINY)).sum(dim=1)
    ours, theirs = length(student), length(teacher)
    longer = torch.where(ours >= theirs, ours, theirs)  # the maximum, whose gradient at a tie is the student's
    return 1 - torch.where(longer > _TINY, along / longer, 0).mean()


@register
class ND(Distiller):
    """loss = CE + KD + gamma * mean_i [1 - <s_i, c_y / |c_y|> / max(|s_i|, |f_T,i|)].

    c_y is the teacher's mean pooled vector of the label's class, s the student's pooled vector; where that is
    of another width, it goes through batch norm, dropout and a linear layer first, for this term only.
    With KD this is the authors' KD++, with ``dkd`` DKD++ and so on: ``nd+dkd``.
    """

    reference = (
        "Wang et al. Improving Knowledge Distillation via Regularizing Feature Direction and Norm. ECCV 2024."
        " https://arxiv.org/abs/2305.17007"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "The class means are taken in a first stage of one epoch, with the augmentation of the run and as many passes"
        " over the data as a longer run gives it; the release takes one pass and rounds to 4 decimals.",
        "The KD term has its full weight from the start; in the release it grows over the first 20 epochs.",
        "The authors choose gamma and the weight of KD per pair, for a recipe with Nesterov momentum, batches of 128"
        " and rate .1; our conventions take their gamma and keep their own KD.",
        "An image whose vectors are both zero counts 1 without gradient, and so does one whose class has no mean, or a"
        " mean of zero; the release is not finite there. Where no class has one, as in a loop that leaves the first"
        " stage out, the teacher's vector of the image stands in for it.",
        "A last batch of one image trains without the term where the widths differ, because of the batch norm.",
        "One number that nothing reads is the parameter of the pre-training stage, which must have one.",
        "The release has no licence; no text of it is used.",
    )
    family = "feature"
    reads = "pooled"
    main_weight = "gamma"
    pretrain_epochs = 1

    sums: Tensor

    def __init__(self, pair: Pair, *, gamma: float = 2.0, dropout: float = 0.5, **common: float) -> None:
        super().__init__(pair, **common)
        d_s, d_t = pair.student.pooled, pair.teacher.pooled
        if not 0 <= dropout < 1:
            raise ValueError(f"nd: dropout={dropout:g} leaves nothing; take 0 to below 1")
        self.gamma, self.num_classes = gamma, pair.num_classes
        self.embed: nn.Module | None = None
        if d_s != d_t:
            linear = nn.Linear(d_s, d_t)
            nn.init.zeros_(linear.bias)
            self.embed = nn.Sequential(nn.BatchNorm1d(d_s), nn.Dropout(dropout), linear)
        # Only the means' directions are used, and those of the sums are the same.
        self.register_buffer("sums", torch.zeros(pair.num_classes, d_t))
        # The engine takes a step of the optimizer in every stage; this is what the first one may step on.
        self.idle = nn.Parameter(torch.zeros(()))

    def on_stage(self, stage: str) -> None:
        self.requires_grad_(stage != "pretrain")
        self.idle.requires_grad_(stage == "pretrain")

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.sums.add_(sums_by_class(teacher.pooled, batch.label, self.num_classes))
        own = norm_and_direction(teacher.pooled, teacher.pooled, self.sums[batch.label])
        return {"teacher": own + 0.0 * self.idle}  # how far the teacher itself is from its means

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours = student.pooled
        if self.embed is not None:
            if len(ours) < 2:
                return {"direction": 0.0 * ours.float().sum()}
            ours = self.embed(ours)
        centre = torch.where(self.sums.any(), self.sums[batch.label], teacher.pooled)
        return {"direction": self.gamma * norm_and_direction(ours, teacher.pooled, centre)}
