"""SKD: the student's similarities between the images of a batch follow the teacher's, as measured by their covariance.

Streamlined KD. CVPR 2026. https://github.com/HyunJunSik/StreamLined

The rows of the logits are made unit vectors, so G = z z^T / K holds the cosines of all pairs of images. How far a row
of G_S is from the teacher's counts the less in a direction in which all rows are apart: a Mahalanobis distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import full_precision

_PRODUCTS = 30  # enough, in double precision, where the largest eigenvalue is ten million times the smallest


def cosines(z: Tensor) -> Tensor:
    """(B, K) logits -> (B, B), cosines of all pairs of rows, divided by K."""
    unit = F.normalize(z, dim=1)
    return unit @ unit.T / z.shape[1]


def inverse(sigma: Tensor) -> Tensor:
    """Of a symmetric (B, B) whose eigenvalues are above 0, by products alone (Newton, Schulz).

    A factorisation would ask the host whether it went well. Each product doubles the right digits; the last one has
    the gradient, which is then that of the inverse.
    """
    twice = 2 * torch.eye(len(sigma), device=sigma.device, dtype=sigma.dtype)
    with torch.no_grad():
        found = twice / 2 / sigma.abs().sum(dim=1).amax()
        for _ in range(_PRODUCTS):
            found = found @ (twice - sigma @ found)
    return found @ (twice - sigma @ found)


@full_precision
def mahalanobis(z_s: Tensor, z_t: Tensor, ridge: float) -> Tensor:
    """(B, K) logits each -> (): mean over images of sqrt(D_i Sigma^-1 D_i^T), with D the difference of ``cosines``.

    Sigma, (B, B), is the unbiased covariance of the columns of D plus ``ridge`` times the unit matrix. All is done in
    double precision: with few classes D has few directions, and the gradient is a difference of much larger numbers.
    """
    apart = cosines(z_s.double()) - cosines(z_t.double())
    b = len(apart)
    centred = apart - apart.mean(dim=0)
    sigma = centred.T @ centred / max(1, b - 1) + ridge * torch.eye(b, device=apart.device, dtype=apart.dtype)
    square = ((apart @ inverse(sigma)) * apart).sum(dim=1)
    tiny = torch.finfo(square.dtype).tiny
    return torch.where(square > tiny, square.clamp(min=tiny).sqrt(), 0.0).mean().to(z_s.dtype)


@register
class SKD(Distiller):
    """loss = ce_weight * CE + weight * (share * KL_tau + (1 - share) * M), M the ``mahalanobis`` distance of G.

    G are the cosines of the logits of all pairs of images, divided by the number of classes. Both terms stand in for
    the KD term, which is therefore not offered.

    Args:
        pair: of teacher and student.
        weight: of both terms.
        share: of KL in them.
        ridge: lambda, what is added to the diagonal of the covariance.
        ce_weight: weight of the cross-entropy.
        tau: temperature of the KL term.

    Raises:
        ValueError: the share is none; the ridge is not above 0, or below a ten-millionth of the batch size.
    """

    reference = "Streamlined KD (SKD). CVPR 2026. https://github.com/HyunJunSik/StreamLined"
    provenance = "formula"
    deviations = (
        "The release weighs both terms by the share of images and of classes at or below a median, which is a half;"
        " here they weigh a half each, whatever the ties.",
        "A row that differs in nothing has distance 0 and gradient 0; the square root has none there.",
        "The authors take .5 CE + .5 L for resnet32x4 -> resnet8x4, learning rate .1 and the best epoch.",
        "The release has no licence: this is written from its formula and holds none of its text.",
    )
    family = "logit"
    reads = "logits"
    main_weight = "weight"

    def __init__(
        self,
        pair: Pair,
        *,
        weight: float = 0.9,
        share: float = 0.5,
        ridge: float = 0.1,
        ce_weight: float = 0.1,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=0.0, tau=tau)
        if not 0 <= share <= 1:
            raise ValueError(f"skd: share={share:g} is no share of KL in the loss; take 0 to 1")
        if not ridge > 0:
            raise ValueError(f"skd: ridge={ridge:g} leaves a covariance that has no inverse; take more than 0")
        if ridge < (least := 1e-7 * pair.batch_size):  # an eigenvalue can be the batch size: see _PRODUCTS
            raise ValueError(f"skd: ridge={ridge:g} is too small for a sound inverse; take {least:.2g} or more")
        self.weight, self.share, self.ridge = weight, share, ridge

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        both = student.logits, teacher.logits
        return {
            "soft": self.weight * self.share * kl(*both, self.tau),
            "similarity": self.weight * (1 - self.share) * mahalanobis(*both, self.ridge),
        }
