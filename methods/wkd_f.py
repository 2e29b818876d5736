"""WKD-F: fit a Gaussian to every channel of a map, and bring the student's near the teacher's.

Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation.
NeurIPS 2024. https://arxiv.org/abs/2412.08139

Between Gaussians with diagonal covariance the Wasserstein distance is that of the means and of the standard
deviations. Where in a cell of the map something is seen does not matter, only how it is distributed.
"""

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision
from kdbench.methods.fitnet import regressor
from kdbench.methods.wkd_l import decayed


def cells(side: int, grid: int) -> list[slice]:
    """``grid`` parts of nearly equal length, as adaptive pooling cuts them; neighbours overlap where they must."""
    return [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]


@full_precision
def gaussians(feat: Tensor, grid: int, eps: float) -> Tensor:
    """(B, C, H, W) -> (2, B, C, grid^2), mean and standard deviation (n - 1 in the variance) of every cell."""
    found = []
    for rows in cells(feat.shape[2], grid):
        for columns in cells(feat.shape[3], grid):
            variance, mean = torch.var_mean(feat[:, :, rows, columns], dim=(2, 3))
            found.append(torch.stack([mean, (variance + eps).sqrt()]))
    return torch.stack(found, dim=3)


def _fewest(size: tuple[int, int, int], grid: int) -> int:
    """Positions of the smallest cell of a (C, H, W) map."""
    high, wide = (
        min(int(part.stop - part.start) for part in cells(side, grid)) if grid < side else 1 for side in size[1:]
    )
    return high * wide


@register
class WKDF(Distiller):
    """loss = CE + KD + beta(progress) / (B grid^2) * (ratio * |mu_S - mu_T|^2 + |sigma_S - sigma_T|^2).

    mu and sigma are means and standard deviations of each channel in each cell of a ``grid`` x ``grid``
    partition of the deepest stage, the student's behind a convolution, batch norm and ReLU. Squares are summed
    over channels and cells. beta falls to 0 over the last part of the training.

    Args:
        pair: shapes and facts of the pair.
        beta: weight of the term until ``decay``.
        ratio: weight of the means against the standard deviations.
        grid: cells on a side.
        eps: added to every variance.
        decay: share of the training after which beta falls; 1 keeps it.

    Raises:
        ValueError: a cell with one position; a student map that no kernel brings to the teacher's side.
    """

    reference = (
        "Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation."
        " NeurIPS 2024. https://arxiv.org/abs/2412.08139"
    )
    provenance = "authors' code"
    deviations = (
        "A cell of one position, which has no variance, is refused; the release gives NaN there.",
        "The regressor ends in ReLU, as released: a map with negative entries (WRN, MobileNetV2) cannot be met"
        " exactly. The release's other projector, a bottleneck for ImageNet, is left out.",
        "beta falls with every step; in the release it falls with every epoch.",
        "The release chooses beta, ratio and grid per pair; the defaults are those of resnet32x4 -> resnet8x4.",
        "The release has no licence: this is written from its formulas and holds none of its text.",
    )
    family = "feature"

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 0.08,
        ratio: float = 4.0,
        grid: int = 1,
        eps: float = 1e-5,
        decay: float = 150 / 240,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        student, teacher = pair.student.feats[-1], pair.teacher.feats[-1]
        sides = f"{teacher[1]}x{teacher[2]}"
        if grid < 1:
            raise ValueError(f"wkd_f: grid={grid} cuts no cell; take 1 or more")
        if not eps > 0:
            raise ValueError(f"wkd_f: eps={eps:g} has no gradient at a constant channel; take more than 0")
        if _fewest(teacher, grid) < 2:
            serves = [one for one in range(1, min(grid, max(teacher[1:]))) if _fewest(teacher, one) > 1]
            raise ValueError(
                f"wkd_f: with grid={grid} a cell of the teacher's {sides} map is one position, which has no variance;"
                + (f" take grid={serves[-1]}" if serves else " this pair has nothing to fit a Gaussian to")
            )
        self.beta, self.ratio, self.grid, self.eps, self.decay = beta, ratio, grid, eps, decay
        self.regressor = regressor(student, teacher)
        with torch.no_grad():
            reached = self.regressor[0](torch.zeros(1, *student)).shape[1:]
        if reached != teacher:
            raise ValueError(
                f"wkd_f: no kernel brings the student's {student[1]}x{student[2]} map to the teacher's {sides};"
                " it must be as large or larger, or just half as large"
            )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours = gaussians(self.regressor(student.feats[-1]), self.grid, self.eps)
        theirs = gaussians(teacher.feats[-1], self.grid, self.eps)
        mean, std = (ours - theirs).square().sum(dim=(1, 2, 3)) / (ours.shape[1] * self.grid**2)
        weight = self.beta * decayed(batch.progress, self.decay)
        return {"mean": weight * self.ratio * mean, "std": weight * std}
