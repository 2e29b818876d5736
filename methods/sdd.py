"""SDD: distil the classifier's logits region by region, twice as much where a region contradicts the whole image.

Wei, Luo, Luo. Scaled Decoupled Distillation.
CVPR 2024. https://arxiv.org/abs/2403.13512
"""

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import divergence, full_precision, pool, ramp
from kdbench.methods._pairs import must_average
from kdbench.methods.dkd import non_target_class, target_class
from kdbench.methods.lskd import standardise
from kdbench.methods.rld import confidence, correlation


@full_precision
def region_logits(last: Tensor, weight: Tensor, bias: Tensor | None, scales: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) -> (B, R, K): the classifier on the mean of each cell of each grid, row by row.

    The map is pooled to 4x4 first, and the coarser grids from that.
    """
    finest = pool(last, (4, 4))
    cells = torch.cat([pool(finest, (side, side)).flatten(2) for side in scales], dim=2)
    return F.linear(cells.transpose(1, 2), weight, bias)


def discord(z_t: Tensor, label: Tensor) -> Tensor:
    """(B, R, K) logits of the teacher -> (B, R): 1 where a region is right or wrong as the first one is, else 2."""
    right = z_t.argmax(dim=2) == label[:, None]
    return torch.where(right == right[:, :1], 1.0, 2.0)


@register
class SDD(Distiller):
    """loss = ce_weight * CE + weight * mean over regions m and images i of w_mi * l_mi.

    Regions are the cells of 1x1, 2x2 and 4x4 grids over the last map (``M``, "1-2-4" or "1-2"), their logits the
    network's own classifier on the cell's mean. w is 2 where the teacher is right about the region and wrong
    about the image, or the reverse, and 1 elsewhere; with ``weighting="mean"`` every image and region has the mean
    of w instead. l is the ``base`` loss of one row: kd, tau^2 KL; dkd, alpha * TCKD + beta * NCKD; rld, alpha * SCD
    (at ``alpha_tau``; 0: tau) + beta * MCD. dkd and rld are multiplied by min(progress / warmup, 1). The authors
    weigh CE and the term .1 and .9 with kd, 1 and 1 with dkd. ``standardise`` z-scores every row of logits first;
    then they take tau 2, and weight 9 with kd, alpha 9, beta 9 times DKD's and weighting "mean" with dkd, alpha 9
    and beta 72 with rld. The term stands in for KD's, which is therefore not offered.

    Raises:
        ValueError: a head is not a linear layer on the pooled last map, or a word is none of those above.
    """

    reference = "Wei, Luo, Luo. Scaled Decoupled Distillation. CVPR 2024. https://arxiv.org/abs/2403.13512"
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "The warm-up grows with every step over 20/240 of the training; in the release it grows with every epoch.",
        "In log space: where its loss is not finite (DKD base, logits of 1e3) the release goes on without it.",
        "The NKD base is left out: the release's keeps the label among the other classes by mistake.",
        "The RLD base, standardisation and mean weights are those of the DSKD repository (iversonshao/DSKD).",
        "The release chooses M and beta per pair.",
    )
    family = "logit"
    main_weight = "weight"

    def __init__(
        self,
        pair: Pair,
        *,
        base: Literal["kd", "dkd", "rld"] = "kd",
        M: Literal["1-2-4", "1-2", "1-4", "1"] = "1-2-4",
        weight: float = 0.9,
        weighting: Literal["sample", "mean"] = "sample",
        standardise: bool = False,
        alpha: float = 1.0,
        beta: float = 8.0,
        alpha_tau: float = 0.0,
        warmup: float = 20 / 240,
        ce_weight: float = 0.1,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        must_average(pair, "sdd", "so its regions have no logits")
        self.scales = tuple(int(number) for number in re.findall(r"\d+", M))  # the release's "[1,2,4]" will do
        for name, given, known in (
            ("base", base, ("kd", "dkd", "rld")),
            ("weighting", weighting, ("sample", "mean")),
            ("M", "-".join(map(str, self.scales)) or M, ("1-2-4", "1-2", "1-4", "1")),
        ):
            if given not in known:
                raise ValueError(f"sdd: {name}={given!r} is not known; take {', '.join(known[:-1])} or {known[-1]}")
        self.base, self.weight, self.weighting, self.standardise = base, weight, weighting, standardise
        self.alpha, self.beta, self.alpha_tau, self.warmup = alpha, beta, alpha_tau or tau, warmup

    def regions(self, outputs: Outputs) -> Tensor:
        """(B, R, K) logits of one side."""
        if outputs.classifier is None:
            raise ValueError("sdd: this model shows no linear classifier, so its regions have no logits")
        return region_logits(outputs.last, *outputs.classifier, self.scales)

    def rows(self, z_s: Tensor, z_t: Tensor, label: Tensor) -> Tensor:
        """(n, K) logits and (n,) labels -> (n,), the base loss of each row."""
        if self.standardise:
            z_s, z_t = standardise(z_s), standardise(z_t)
        if self.base == "rld":
            scd = confidence(z_s, z_t, label, self.alpha_tau)
            return self.alpha * scd + self.beta * correlation(z_s, z_t, label, self.tau)
        sides = z_s / self.tau, z_t / self.tau
        if self.base == "kd":
            return self.tau**2 * divergence(*(F.log_softmax(z, dim=1) for z in sides))
        tckd, nckd = (part(*sides, label, 1.0) for part in (target_class, non_target_class))
        return self.tau**2 * (self.alpha * tckd + self.beta * nckd)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        z_s, z_t = self.regions(student), self.regions(teacher)
        w = discord(z_t, batch.label)
        label = batch.label[:, None].expand_as(w).flatten()
        rows = self.rows(z_s.flatten(0, 1), z_t.flatten(0, 1), label)
        loss = w.mean() * rows.mean() if self.weighting == "mean" else (w.flatten() * rows).mean()
        grown = ramp(batch.progress, self.warmup if self.base != "kd" else 0)
        return {"regions": grown * self.weight * loss}
