"""FitNets: one map of the teacher is the hint, one of the student is guided by it.

Romero, Ballas, Kahou, Chassang, Gatta, Bengio. FitNets: Hints for Thin Deep Nets.
ICLR 2015. https://arxiv.org/abs/1412.6550
"""

from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import mse, pool


def regressor(student: tuple[int, int, int], teacher: tuple[int, int, int], *, relu: bool = True) -> nn.Sequential:
    """Student map (C_S, H_S, W_S) -> teacher channels, at the teacher's height and width where a kernel can."""
    (c_s, h_s, w_s), (c_t, h_t, w_t) = student, teacher
    conv: nn.Module
    if (h_s, w_s) == (2 * h_t, 2 * w_t):
        conv = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    elif (2 * h_s, 2 * w_s) == (h_t, w_t):
        conv = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    elif h_s >= h_t and w_s >= w_t:
        conv = nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))
    else:
        conv = nn.Conv2d(c_s, c_t, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(c_t), *([nn.ReLU()] if relu else []))


@register
class FitNet(Distiller):
    """loss = CE + KD + beta * mean (r(F_S) - F_T)^2, over one tap of each side.

    Args:
        pair: shapes and facts of the pair.
        tap: of the student, 0 the stem, 1 its first stage; and of the teacher, unless ``teacher_tap`` names another.
        beta: weight of the term.
        relu: whether the regressor ends in one.
        teacher_tap: of the teacher; -1: the same as ``tap``.
    """

    reference = "Romero et al. FitNets. ICLR 2015. https://arxiv.org/abs/1412.6550"
    provenance = "port"
    deviations = (
        "Paper: the hint trains the lower half first, KD the whole net after; here, as in every suite that"
        " reports FitNets (RepDistiller, SemCKD), both terms train together.",
        "The regressor ends in batch norm and ReLU, as released: a hint with negative entries"
        " (WRN, MobileNetV2) cannot be met exactly.",
    )

    later = ("teacher_tap",)

    def __init__(
        self, pair: Pair, *, tap: int = 2, beta: float = 100.0, relu: bool = True, teacher_tap: int = -1,
        **common: float,
    ) -> None:  # fmt: skip
        super().__init__(pair, **common)
        ours, theirs = len(pair.student.feats) - 1, len(pair.teacher.feats) - 1
        if teacher_tap < 0 and not 0 <= tap <= min(ours, theirs):
            raise ValueError(f"fitnet: tap={tap} is not there; this pair shares taps 0 to {min(ours, theirs)}")
        self.tap, self.teacher_tap, self.beta = tap, tap if teacher_tap < 0 else teacher_tap, beta
        if not (0 <= tap <= ours and self.teacher_tap <= theirs):
            raise ValueError(
                f"fitnet: tap={tap} and teacher_tap={teacher_tap} are not there; the student has taps 0 to {ours}, the"
                f" teacher 0 to {theirs}"
            )
        guided, hint = pair.student.feats[tap], pair.teacher.feats[self.teacher_tap]
        self.regressor = regressor(guided, hint, relu=relu)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        guided = self.regressor(student.feats[self.tap])  # (B, C_T, H, W)
        # A student map under half the teacher's side: the hint is pooled down to it.
        hint = pool(teacher.feats[self.teacher_tap], (guided.shape[2], guided.shape[3]))
        return {"hint": self.beta * mse(guided, hint)}
