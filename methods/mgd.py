"""MGD: from what is left of the student's map under a mask, generate the teacher's.

Yang, Li, Shao, Shi, Yuan, Yuan. Masked Generative Distillation.
ECCV 2022. https://arxiv.org/abs/2205.01529

A map that is not copied but has to be completed must represent what the dropped channels held, too.
"""

import torch
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, meet


@full_precision  # a sum over channels and positions overflows float16
def squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, C, H, W) each -> (): squared differences, summed over all but the batch."""
    return (ours - theirs).square().sum() / len(ours)


@register
class MGD(Distiller):
    """loss = CE + KD + alpha / B * |G(m * A(F_S)) - F_T|^2, over the maps that the heads pool.

    A is a 1x1 convolution to the teacher's channels, or nothing where they are equal. The mask m is drawn anew
    for every image and drops each channel with probability ``lam``; what is kept is not rescaled. G is a 3x3
    convolution, ReLU and another 3x3 convolution, all of the teacher's width. Squares are summed, not averaged.

    Args:
        pair: shapes and facts of the pair.
        alpha: weight of the term; the authors take 1.2e-3 on CIFAR-100 and 7e-5 on ImageNet.
        lam: share of the channels that is dropped.
        widest: most channels of the teacher's map that are served; G holds 18 weights per channel squared.

    Raises:
        ValueError: a teacher's map wider than ``widest``; ``lam`` is no share.
    """

    reference = "Yang et al. Masked Generative Distillation. ECCV 2022. https://arxiv.org/abs/2205.01529"
    provenance = "authors' code"
    deviations = (
        "Paper: the mask drops positions; released and here, it drops whole channels.",
        "Maps of different sides are compared at the smaller one, to which the larger is average-pooled; the release"
        " takes maps of equal sides only.",
        "A teacher's map of more than ``widest`` channels is refused; the release trains 75 million weights for one of"
        " 2048.",
        "The authors publish no weight for the pairs of the CRD suite; alpha is that of their CIFAR-100 example.",
    )
    family = "feature"
    main_weight = "alpha"

    def __init__(
        self, pair: Pair, *, alpha: float = 1.2e-3, lam: float = 0.15, widest: int = 1024, **common: float
    ) -> None:
        super().__init__(pair, **common)
        c_s, c_t = pair.student.last[0], pair.teacher.last[0]
        if not 0 <= lam <= 1:
            raise ValueError(f"mgd: lam={lam} is no share of the channels; take 0 to 1")
        if c_t > widest:
            raise ValueError(
                f"mgd: to generate a map of {c_t} channels takes {18 * c_t**2:,} weights, and widest={widest} allows"
                f" {widest} channels; set widest={c_t} to train them all the same"
            )
        self.alpha, self.lam = alpha, lam
        self.align = nn.Conv2d(c_s, c_t, 1) if c_s != c_t else nn.Identity()
        self.generation = nn.Sequential(nn.Conv2d(c_t, c_t, 3, padding=1), nn.ReLU(), nn.Conv2d(c_t, c_t, 3, padding=1))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = meet(student.last, teacher.last)
        ours = self.align(ours)
        kept = torch.rand(*ours.shape[:2], 1, 1, device=ours.device) >= self.lam
        return {"generated": self.alpha * squared_error(self.generation(ours * kept), theirs)}
