"""WKD-L: move the teacher's probability onto the student's at a cost that knows which classes are alike.

Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation.
NeurIPS 2024. https://arxiv.org/abs/2412.08139

KL compares class with class alone. Here probability that the student gives to a neighbour of the teacher's
class travels a short way, and costs little.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import at_class, full_precision
from kdbench.methods.dkd import log_others

_EPS = 1e-8  # of the cost and of both denominators, as released


def decayed(progress: Tensor, start: float) -> Tensor | float:
    """1 up to ``start`` of the training, then half a cosine down to 0 at its end."""
    if start >= 1:
        return 1.0
    return (1 + torch.cos(math.pi * ((progress - start) / (1 - start)).clamp(0, 1))) / 2


@full_precision
def target_class(z_s: Tensor, z_t: Tensor, target: Tensor) -> Tensor:
    """(B, K) logits and mask of the label -> (): -mean p_T(y) log p_S(y), at temperature 1."""
    log_s, p_t = F.log_softmax(z_s, dim=1), F.softmax(z_t, dim=1)
    return -(p_t * log_s).masked_fill(~target, 0).sum(dim=1).mean()


@full_precision
def transport(z_s: Tensor, z_t: Tensor, cost: Tensor, target: Tensor, smoothing: float, iterations: int) -> Tensor:
    """Softened logits (B, K), cost (K, K) -> (): mean cost of the entropic plan between the other classes.

    One kernel serves the batch, though the class that is left out differs by image: a class with no mass on
    either side gets no share of the plan from the first iteration on.
    """
    p, q = (log_others(z, target).exp().masked_fill(target, 0) for z in (z_s, z_t))
    kernel = torch.exp(-cost / smoothing)
    u = torch.full_like(p, 1 / (p.shape[1] - 1)).masked_fill(target, 0)
    v = u
    for _ in range(iterations):
        v = q / (u @ kernel + _EPS)
        u = p / (v @ kernel.T + _EPS)
    return (u * (v @ (kernel * cost).T)).sum(dim=1).mean()


@register
class WKDL(Distiller):
    """loss = CE - mean p_T(y) log p_S(y) + gamma(progress) * mean of W.

    W is the cost of moving softmax(z_T / temperature) onto the student's, both over the classes other than the
    label, by the entropic plan (Sinkhorn). The first probabilities have temperature 1. Both terms stand in for
    the KD term, which is therefore not offered. gamma falls to 0 over the last part of the training.

    Args:
        pair: shapes and facts of the pair.
        gamma: weight of W until ``decay``.
        temperature: of the probabilities that W moves.
        cost: "fc", 1 - cosine between rows of the teacher's classifier; or "matrix", the buffer
            ``class_distance`` (K, K), in which all classes are equally far apart until another is loaded.
        sharpen: distances D become 1 - exp(-sharpen * D); 0 leaves them.
        smoothing: weight of the plan's entropy. Where costs are above some 18 times this, exp(-cost / smoothing) is
            below the release's 1e-8 and W next to 0: with sharpen=0 it must be larger than the default.
        iterations: of Sinkhorn's algorithm.
        decay: share of the training after which gamma falls; 1 keeps it.
        ce_weight: weight of the cross-entropy.

    Raises:
        ValueError: another cost; no smoothing or iteration. In ``terms``: cost "fc" and no linear classifier.
    """

    reference = (
        "Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation."
        " NeurIPS 2024. https://arxiv.org/abs/2412.08139"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    roles: ClassVar = {"target": "target"}
    deviations = (
        "The default cost is read from the teacher's classifier. The authors' CIFAR-100 numbers have costs from files"
        " of theirs (1 - CKA between the images of two classes), so they are not what this default gives.",
        "All images share one K x K kernel, with no mass at the label; the release cuts a kernel for every image.",
        "gamma falls with every step; in the release it falls with every epoch.",
        "The release chooses gamma and temperature per pair; the defaults are those of resnet32x4 -> resnet8x4.",
        "The release has no licence: this is written from its formulas and holds none of its text.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "gamma"

    class_distance: Tensor  # (K, K)

    def __init__(
        self,
        pair: Pair,
        *,
        gamma: float = 600.0,
        temperature: float = 8.0,
        cost: Literal["fc", "matrix"] = "fc",
        sharpen: float = 1.0,
        smoothing: float = 0.05,
        iterations: int = 10,
        decay: float = 150 / 240,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0)
        if cost not in ("fc", "matrix"):
            raise ValueError(f'wkd_l: cost={cost!r} is not known; take "fc" or "matrix"')
        if smoothing <= 0 or iterations < 1:
            raise ValueError(
                f"wkd_l: smoothing={smoothing} and iterations={iterations} give no plan; take more than 0, and at"
                " least 1"
            )
        self.gamma, self.temperature, self.sharpen, self.decay = gamma, temperature, sharpen, decay
        self.smoothing, self.iterations, self.from_classifier = smoothing, iterations, cost == "fc"
        if not self.from_classifier:
            self.register_buffer("class_distance", 1 - torch.eye(pair.num_classes))

    def costs(self, teacher: Outputs) -> Tensor:
        """(K, K), what it costs to move probability from one class to another."""
        if self.from_classifier:
            if teacher.classifier is None:
                raise ValueError(
                    'wkd_l: this teacher shows no linear classifier to take costs from; take cost="matrix"'
                )
            wide = torch.promote_types(teacher.logits.dtype, torch.float32)
            rows = F.normalize(teacher.classifier[0].detach().to(wide), dim=1)
            with torch.autocast(rows.device.type, enabled=False):
                distance = 1 - rows @ rows.T
        else:
            distance = self.class_distance
        return F.relu(1 - torch.exp(-self.sharpen * distance) if self.sharpen else distance) + _EPS

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        target = at_class(batch.label, student.logits)
        soft = student.logits / self.temperature, teacher.logits / self.temperature
        moved = transport(*soft, self.costs(teacher), target, self.smoothing, self.iterations)
        return {
            "target": target_class(student.logits, teacher.logits, target),
            "wasserstein": self.gamma * decayed(batch.progress, self.decay) * moved,
        }
