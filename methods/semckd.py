"""SemCKD: attention finds, image by image, which of the teacher's stages should guide each stage of the student.

Chen, Mei, Zhang, Wang, Wang, Feng, Chen. Cross-Layer Distillation with Semantic Calibration.
AAAI 2021. https://arxiv.org/abs/2012.03236

Stages of equal depth need not mean the same thing. Two stages do when they find the same images alike, so
a stage is described by the similarities of the batch: row i, B numbers, says how it sees image i. Rows of
the student are queries and rows of the teacher keys; their softmax weighs the distances between the maps,
and every student stage learns from all of the teacher's.

Two consequences. The layers that read a row are as wide as a batch, so a run has one batch size. And each
of the S x T pairs of stages has a projector of its own: together 1.7 (ResNet-56 to 20) to 6 times
(ResNet-32x4 to 8x4) the arithmetic of the student.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, gram, mean_square, meet, rows
from kdbench.methods._pairs import must_show_stages


def mlp(width: int, dim: int) -> nn.Sequential:
    """(B, width) -> (B, dim)."""
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def projector(c_s: int, c_t: int) -> nn.Sequential:
    """(B, C_S, H, W) -> (B, C_T, H, W), of either sign."""
    mid = 2 * c_t
    return nn.Sequential(
        nn.Conv2d(c_s, mid, 1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, c_t, 1, bias=False),
    )


@full_precision  # sums of C H W squares overflow float16
def describe(feat: Tensor, embed: nn.Module) -> Tensor:
    """(B, C, H, W) -> (B, E), one unit vector per image, from its similarities to the batch."""
    similar = gram(rows(feat))
    if next(embed.parameters()).dtype is similar.dtype:
        return F.normalize(embed(similar), dim=1)
    wide = {name: one.to(similar.dtype) for name, one in embed.named_parameters()}  # beside networks in half precision
    return F.normalize(torch.func.functional_call(embed, wide, similar), dim=1)


@full_precision
def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, C, H, W) each -> (B,), mean squared difference."""
    return mean_square(ours, (1, 2, 3), theirs)


@register
class SemCKD(Distiller):
    """loss = CE + KD + beta / (B S) * sum over images, s and t of alpha_st * mean (P_st(F_s) - F_t)^2.

    alpha_s = softmax over t of <query_s, key_t> / soft, per image; query and key are unit vectors, so no
    teacher stage is ever left out. The larger map is pooled to the smaller side before the projector P.
    Gradients pass through alpha too.

    Args:
        pair: shapes and facts of the pair.
        factor: queries and keys are B // factor long, the layer before them twice that.
        soft: temperature of the attention.
        beta: weight of the term; the authors take 400 on CIFAR-100 and 50 on ImageNet.

    Raises:
        ValueError: a net without stages; a batch shorter than ``factor`` or larger than the training set.
    """

    reference = (
        "Chen et al. Cross-Layer Distillation with Semantic Calibration. AAAI 2021. https://arxiv.org/abs/2012.03236"
    )
    provenance = "authors' code"
    deviations = (
        "Paper: one attention weight per pair of stages; here, as released, one per pair of stages and image.",
        "An epoch's shorter last batch trains with CE and KD alone, because the attention is as wide as a full batch;"
        " the release leaves that batch out.",
        "``soft`` is not in the paper: the authors' later SimKD repository has it. At 1 it has no effect.",
    )
    family = "feature"
    attention_modules = ("query", "key")

    def __init__(self, pair: Pair, *, factor: int = 4, soft: float = 1.0, beta: float = 400.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "semckd")
        students, teachers = pair.student.feats[1:], pair.teacher.feats[1:]
        if not 1 <= factor <= pair.batch_size:
            raise ValueError(
                f"semckd: factor={factor} does not divide batches of {pair.batch_size} images;"
                f" take 1 to {pair.batch_size}"
            )
        if pair.num_train < pair.batch_size:
            raise ValueError(
                f"semckd: {pair.num_train} training images never fill a batch of {pair.batch_size}, and"
                " the attention reads full batches only; take a smaller batch size"
            )
        self.soft, self.beta, self.width = soft, beta, pair.batch_size
        self.query = nn.ModuleList(mlp(self.width, self.width // factor) for _ in students)
        self.key = nn.ModuleList(mlp(self.width, self.width // factor) for _ in teachers)
        self.projectors = nn.ModuleList(projector(s[0], t[0]) for s, t in product(students, teachers))

    def weights(self, student: Outputs, teacher: Outputs) -> Tensor:
        """alpha, (B, S, T), sums to one over T; B must be the pair's batch size."""
        query = torch.stack([describe(*of) for of in zip(student.feats[1:], self.query, strict=True)], dim=1)
        key = torch.stack([describe(*of) for of in zip(teacher.feats[1:], self.key, strict=True)], dim=1)
        return ((query[:, :, None] * key[:, None]).sum(dim=3) / self.soft).softmax(dim=2)

    def distances(self, student: Outputs, teacher: Outputs) -> Tensor:
        """(B, S, T), mean squared distance of each projected student map to each map of the teacher."""
        columns = []
        couples = product(student.feats[1:], teacher.feats[1:])
        for project, (f_s, f_t) in zip(self.projectors, couples, strict=True):
            ours, theirs = meet(f_s, f_t)
            columns.append(distance(project(ours), theirs))
        table: Tensor = torch.stack(columns, dim=1).unflatten(1, (len(self.query), len(self.key)))
        return table

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if len(batch.label) != self.width:
            # Zero, yet of the student: a run of this term alone can still go backward.
            return {"feature": 0.0 * student.pooled.float().sum()}
        weighed = self.weights(student, teacher) * self.distances(student, teacher)
        return {"feature": self.beta * weighed.sum(dim=2).mean()}
