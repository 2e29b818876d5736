"""IKL: a weighted mean square of differences between logits, and soft cross-entropy, in the place of KL.

Cui, Tian, Zhong, Qi, Yu, Zhang. Decoupled Kullback-Leibler Divergence Loss.
NeurIPS 2024. https://arxiv.org/abs/2305.13948

KL has the gradient of such a sum, yet its weights are the student's or the teacher's own predictions of one
image. Here the weights may come from the class instead: what the teacher says of it on average.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, ramp


@full_precision
def flattened(z: Tensor, tau: float) -> Tensor:
    """(B, K) logits -> (B, K), their softmax at a temperature that may be as high as 100."""
    return F.softmax(z / tau, dim=1)


@full_precision
def weighted_mse(z_s: Tensor, z_t: Tensor, w: Tensor) -> Tensor:
    """(B, K) each -> (): 1/4 sum over pairs a, b of w_a w_b ((t_a - t_b) - (s_a - s_b))^2, mean over the batch.

    With d = t - s this is half the variance of d under w, so no (B, K, K) is made; ``w`` need not sum to 1.
    """
    d, total = z_t - z_s, w.sum(dim=1, keepdim=True)
    centred = d - (w * d).sum(dim=1, keepdim=True) / total
    return (total[:, 0] * (w * centred.square()).sum(dim=1)).mean() / 2


@full_precision
def soft_cross_entropy(z_s: Tensor, z_t: Tensor, tau: float) -> Tensor:
    """(B, K) logits each -> (): -mean sum p_T log p_S at temperature tau, without tau^2."""
    return -(F.softmax(z_t / tau, dim=1) * F.log_softmax(z_s / tau, dim=1)).sum(dim=1).mean()


@register
class IKL(Distiller):
    """loss = CE + min(progress / warmup, 1) * (beta * wMSE + alpha * SCE).

    wMSE = 1/4 mean_i sum_ab w_a w_b ((t_a - t_b) - (s_a - s_b))^2 over the logits t of the teacher and s of
    the student; SCE = -mean sum p_T log p_S at ``tau``. Both stand in for the KD term, which is therefore not
    offered. With ``weights="sample"`` w is softmax(t / weight_tau) of the image; with ``"class"`` it is the
    mean of that over the images of the class in the epoch before, and uniform in the first epoch.

    Args:
        pair: shapes and facts of the pair.
        alpha: weight of SCE.
        beta: weight of wMSE.
        weights: where w comes from, "sample" or "class".
        weight_tau: temperature of w; 0 takes the authors', which is 100 for "sample" and 1 for "class".
        warmup: share of the training over which both terms grow.
        ce_weight: weight of the cross-entropy.
        tau: temperature of SCE.

    Raises:
        ValueError: ``weights`` is neither "sample" nor "class".
    """

    reference = "Cui et al. Decoupled Kullback-Leibler Divergence Loss. NeurIPS 2024. https://arxiv.org/abs/2305.13948"
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "wMSE is computed as a variance, from K numbers an image; the release forms all K^2 differences.",
        "The warm-up grows with every step over 20/240 of the training; in the release it grows with every epoch.",
        "The release chooses alpha and beta per pair; the defaults are those of resnet32x4 -> resnet8x4. The paper"
        " swaps the two letters; here they are the release's.",
        "A class without an image in an epoch keeps its weights of the epoch before; the release divides 0 by 0.",
    )
    family = "logit"
    reads = "logits"

    class_prior: Tensor  # (K, K), row y holds the weights of class y in this epoch
    prior_sum: Tensor  # (K, K), softmaxes of this epoch, summed by class
    prior_count: Tensor  # (K,), images of this epoch

    def __init__(
        self,
        pair: Pair,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        weights: Literal["sample", "class"] = "sample",
        weight_tau: float = 0.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        if weights not in ("sample", "class"):
            raise ValueError(f'ikl: weights={weights!r} is not known; take "sample" or "class"')
        self.alpha, self.beta, self.warmup = alpha, beta, warmup
        self.by_class, self.num_train = weights == "class", pair.num_train
        self.weight_tau = weight_tau or (1.0 if self.by_class else 100.0)
        if self.by_class:
            k = pair.num_classes
            self.register_buffer("class_prior", torch.full((k, k), 1 / k))
            self.register_buffer("prior_sum", torch.zeros(k, k))
            self.register_buffer("prior_count", torch.zeros(k))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        w = flattened(teacher.logits, self.weight_tau)
        if self.by_class:
            own = self.class_prior[batch.label]
            self.remember(w, batch.label)
            w = own
        grown = ramp(batch.progress, self.warmup)
        return {
            "wmse": grown * self.beta * weighted_mse(student.logits, teacher.logits, w),
            "sce": grown * self.alpha * soft_cross_entropy(student.logits, teacher.logits, self.tau),
        }

    @torch.no_grad()
    def remember(self, w: Tensor, label: Tensor) -> None:
        """Add w (B, K) to the sums of the classes; after the epoch's last image they become the prior."""
        kind = self.prior_sum.dtype
        hits = (torch.arange(len(self.prior_sum), device=label.device)[:, None] == label).to(kind)  # (K, B)
        with torch.autocast(label.device.type, enabled=False):
            total, count = self.prior_sum + hits @ w.to(kind), self.prior_count + hits.sum(dim=1)
        over = count.sum() >= self.num_train
        seen = over & (count > 0)[:, None]
        self.class_prior.copy_(torch.where(seen, total / count.clamp_min(1)[:, None], self.class_prior))
        self.prior_sum.copy_(torch.where(over, 0, total))
        self.prior_count.copy_(torch.where(over, 0, count))
