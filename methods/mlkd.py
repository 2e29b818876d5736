"""MLKD: match predictions of two views at five temperatures, per image, per class and per batch.

Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.
https://openaccess.thecvf.com/content/CVPR2023/papers/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.pdf
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import full_precision

_EPS = 1e-7  # of the standard deviation, as released


def standardised(logits: Tensor) -> Tensor:
    """(B, K) -> (B, K), every row of mean 0 and (unbiased) standard deviation 1."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + _EPS)


def share_below_median(values: Tensor) -> Tensor:
    """(n,) -> (): share of the values not above their median; more than half where they tie."""
    ordered, n = values.sort().values, len(values)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return (values <= median).to(values.dtype).mean()


@full_precision  # products of the probabilities of many classes underflow in half precision
def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """(n, m) each -> (): squared difference of the Gram matrices of the rows, summed, over n."""
    return (teacher @ teacher.T - student @ student.T).pow(2).sum() / len(student)


@register
class MLKD(Distiller):
    """loss = w_ce (CE of both views) + w_kd (KL + class correlation + batch correlation), as released.

    Over tau and the temperatures 2, 3, 5, 6: KL of the plain view, correlations of the plain view,
    each times the share of images (classes) of which the teacher is not surer than the median; and
    the KL of the strong view, unscaled. The weights are the method's own, so ``ce_weight`` and
    ``kd_weight`` are not taken.

    Args:
        pair: the teacher-student pair.
        w_ce: weight of the cross-entropy of each view.
        w_kd: weight of every other term.
        tau: the main temperature.
        standardise: z-score both logits in the KL terms (logit standardisation, Sun et al., CVPR 2024; there
            with w_kd=9, tau=2).
    """

    reference = (
        "Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023. https://openaccess.thecvf.com/content/CVPR2023/"
        "papers/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.pdf"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "Paper: uncertain images are masked out one by one; released and here, the masks only scale sums by the"
        " share that they keep.",
        "As released, two of the strong view's five KL terms (temperatures 2 and 6) are those of the plain view, and"
        " the strong view's correlations are left out.",
        "The release trains some pairs for 480 or 960 epochs; here the suite's recipe decides.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "w_kd"
    views = ("randaugment",)

    def __init__(
        self, pair: Pair, *, w_ce: float = 0.1, w_kd: float = 0.9, tau: float = 4.0, standardise: bool = False
    ) -> None:
        super().__init__(pair, ce_weight=0.0, kd_weight=0.0, tau=tau)
        self.w_ce, self.w_kd, self.standardise = w_ce, w_kd, standardise

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        b = len(batch.label)
        sure = F.softmax(teacher.logits[:b], dim=1)
        images, classes = share_below_median(sure.amax(dim=1)), share_below_median(sure.sum(dim=0))
        ours, theirs = student.logits, teacher.logits
        if self.standardise:
            ours, theirs = standardised(ours), standardised(theirs)
        every = (self.tau, 3.0, 5.0, 2.0, 6.0)
        plain = [kl(ours[:b], theirs[:b], tau) for tau in every]
        strong = [kl(ours[b:], theirs[b:], tau) for tau in every[:3]]
        divergence = images * sum(plain) + sum(strong) + sum(plain[3:])
        raw = student.logits[:b], teacher.logits[:b]  # the correlations are of raw logits in either release
        soft = [tuple(F.softmax(logits / tau, dim=1) for logits in raw) for tau in every]
        per_class = torch.stack([correlation(s.T, t.T) for s, t in soft]).sum()
        per_image = torch.stack([correlation(s, t) for s, t in soft]).sum()
        label = batch.truth
        ce = F.cross_entropy(student.logits[:b], label) + F.cross_entropy(student.logits[b:], label)
        return {
            "ce": self.w_ce * ce,
            "kd": self.w_kd * divergence,
            "class_corr": self.w_kd * classes * per_class,
            "batch_corr": self.w_kd * images * per_image,
        }
