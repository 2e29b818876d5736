"""SSKD: the teacher also teaches how rotated images resemble the upright ones.

Xu, Liu, Li, Loy. Knowledge Distillation Meets Self-Supervision. ECCV 2020.
https://arxiv.org/abs/2006.07114

A pre-training stage trains a projection head on the frozen teacher to find, for every rotated image, its
upright original in the batch. In the main stage the student sees four rotations of every image.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import full_precision


def projection(d: int) -> nn.Sequential:
    """(B, D) -> (B, D)."""
    return nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))


@full_precision
def similarity(projected: Tensor, b: int) -> Tensor:
    """(4B, D), upright rows first -> (3B, B): cosines of every rotated row with every upright one."""
    unit = F.normalize(projected, dim=1, eps=1e-8)
    return unit[b:] @ unit[:b].T


def kept(scores: Tensor, target: Tensor, ratio: float) -> Tensor:
    """(n, m), (n,) -> (n,) of 1 and 0: rows whose target scores highest, and the best of the others.

    Of the others the share ``ratio`` is kept, those whose target ranks best.
    """
    rank = (scores > scores.gather(1, target[:, None])).sum(dim=1)  # 0: highest
    place = rank.argsort(stable=True).argsort(stable=True)
    right = (rank == 0).sum()
    return (place < right + ((len(rank) - right) * ratio).floor()).float()


def kl_of_rows(student: Tensor, teacher: Tensor, tau: float, keep: Tensor) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)), mean over the rows with keep = 1."""
    rows = F.kl_div(F.log_softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1), reduction="none").sum(dim=1)
    return tau**2 * (rows * keep).sum() / keep.sum().clamp_min(1.0)


@register
class SSKD(Distiller):
    """loss = w_ce CE + w_kd KL (upright) + w_tf KL (rotated) + w_ss KL (similarity rows).

    The last two leave out the rows that the teacher gets most wrong. The weights are the method's
    own, so ``ce_weight`` and ``kd_weight`` are not taken.

    Args:
        pair: the teacher-student pair.
        w_ce: weight of the cross-entropy, upright images only.
        w_kd: weight of the KL between logits of upright images.
        w_tf: weight of the KL between logits of rotated images.
        w_ss: weight of the KL between rows of cosine similarities to the upright images.
        tau: temperature of the KL between logits.
        tau_ss: temperature of the similarities.
        ratio_tf: share of the wrongly classified rotated images that is kept.
        ratio_ss: share of the wrongly matched similarity rows that is kept.
    """

    reference = "Xu et al. Knowledge Distillation Meets Self-Supervision. ECCV 2020. https://arxiv.org/abs/2006.07114"
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "The release crops without mirroring and trains teachers of its own on rotations; here the suite's"
        " augmentation and teachers are kept.",
        "Among rows of equal rank the release keeps arbitrary ones (unstable sort); here the first.",
    )
    family = "two-stage"
    reads = "pooled"
    #: Its own two terms together times the usual factors.
    search: ClassVar = {"w_tf": (0.027, 0.27, 0.9, 2.7, 8.1, 27.0), "w_ss": (0.1, 1.0, 3.33, 10.0, 30.0, 100.0)}
    pretrain_epochs = 60
    pretrain_lr = 0.05
    pretrain_drops = (0.5, 0.75)
    views = ("rot90", "rot180", "rot270")

    def __init__(
        self,
        pair: Pair,
        *,
        w_ce: float = 0.1,
        w_kd: float = 0.9,
        w_tf: float = 2.7,
        w_ss: float = 10.0,
        tau: float = 4.0,
        tau_ss: float = 0.5,
        ratio_tf: float = 1.0,
        ratio_ss: float = 0.75,
    ) -> None:
        super().__init__(pair, ce_weight=0.0, kd_weight=0.0, tau=tau)
        self.w_ce, self.w_kd, self.w_tf, self.w_ss = w_ce, w_kd, w_tf, w_ss
        self.tau_ss, self.ratio_tf, self.ratio_ss = tau_ss, ratio_tf, ratio_ss
        self.student_head, self.teacher_head = projection(pair.student.pooled), projection(pair.teacher.pooled)

    def on_stage(self, stage: str) -> None:
        self.teacher_head.requires_grad_(stage == "pretrain")
        self.student_head.requires_grad_(stage != "pretrain")

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        b = len(batch.label)
        scores = similarity(self.teacher_head(teacher.pooled), b)
        return {"matching": F.cross_entropy(scores, torch.arange(b, device=scores.device).repeat(3))}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        b, ours, theirs = len(batch.label), student.logits, teacher.logits
        originals = torch.arange(b, device=ours.device).repeat(3)
        scores_s = similarity(self.student_head(student.pooled), b)
        scores_t = similarity(self.teacher_head(teacher.pooled), b)
        keep_tf = kept(theirs[b:], batch.label.repeat(3), self.ratio_tf)
        keep_ss = kept(scores_t, originals, self.ratio_ss)
        return {
            "ce": self.w_ce * F.cross_entropy(ours[:b], batch.truth),
            "kd": self.w_kd * kl(ours[:b], theirs[:b], self.tau),
            "tf": self.w_tf * kl_of_rows(ours[b:], theirs[b:], self.tau, keep_tf),
            "ss": self.w_ss * kl_of_rows(scores_s, scores_t, self.tau_ss, keep_ss),
        }
