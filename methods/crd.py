"""CRD: the student's and the teacher's vector of an image must match each other among those of other images.

Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020. https://arxiv.org/abs/1910.10699

Two banks hold the latest vector of every training image, so that an image meets many thousand others in
every batch. One product with the whole bank scores all, (B, N), and 0 takes out what was not drawn: the numbers
are those of gathering the drawn vectors, (B, 1 + K, feat_dim), at a fraction of the memory traffic.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._contrast import distinct, draws_for, factors_for, unmatched
from kdbench.methods._products import matmul

EPS = 1e-7  # of the released logarithms


@register
class CRD(Distiller):
    """loss = CE + KD + beta * (NCE of v_S against the teacher's bank + NCE of v_T against the student's).

    v is the unit vector of Linear(pooled). With j = 0 the image itself and j = 1 .. K its negatives,
    x_j = exp(<v, bank_j> / nce_t) / Z and c = K / N,
    NCE = mean over the batch of -log x_0 / (x_0 + c) - sum_j log c / (x_j + c).
    After the scores a bank's row becomes the unit vector of nce_m * row + (1 - nce_m) * v.

    Args:
        pair: shapes and facts of the pair.
        feat_dim: length of v.
        nce_k: K, negatives per image; at most as many as every class leaves images of others.
        nce_t: temperature of the scores.
        nce_m: what a row of a bank keeps of its old value.
        beta: weight of both directions.

    Raises:
        ValueError: no negatives, because ``nce_k`` is below 1 or the training images are of one class.
    """

    reference = (
        "Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020. https://arxiv.org/abs/1910.10699"
    )
    provenance = "authors' code"
    needs_hard_labels = True
    deviations = (
        "Z, one per direction, is fixed by the first batch, as released; here it is part of the checkpoint.",
        "The logarithms are of 1 + x / (c + 1e-7) and its inverse: the released expression, without its loss of digits"
        " in single precision.",
        "Negatives are drawn on the device, uniformly without replacement from other classes, independently per image"
        " and batch; where a class leaves fewer than nce_k others, K is that number (the release fails there).",
    )
    family = "contrastive"
    reads = "pooled"

    memory_student: Tensor  # (N, feat_dim)
    memory_teacher: Tensor
    z_student: Tensor  # (), of the scores of v_S; below 0 until the first batch
    z_teacher: Tensor
    order: Tensor  # (2 N,) int64
    begin_others: Tensor  # (N,) int64, where in ``order``
    num_others: Tensor  # (N,) int64

    def __init__(
        self,
        pair: Pair,
        *,
        feat_dim: int = 128,
        nce_k: int = 16384,
        nce_t: float = 0.07,
        nce_m: float = 0.5,
        beta: float = 0.8,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        n, labels = pair.num_train, pair.train_labels
        sizes = labels.bincount()
        fewest = n - int(sizes.max())  # images of other classes, at least
        if nce_k < 1:
            raise ValueError(f"crd: nce_k={nce_k} leaves no negative to contrast with; take 1 or more")
        if not fewest:
            raise ValueError("crd: all training images are of one class; negatives need a second one")
        self.n, self.nce_k, self.nce_t, self.nce_m, self.beta = n, min(nce_k, fewest), nce_t, nce_m, beta
        # log x / c at most: Z is a mean of such x, and no row of a bank is longer than sqrt(3).
        self.factors = factors_for(2 * math.sqrt(3) / nce_t - math.log(self.nce_k))
        self.embed_s = nn.Linear(pair.student.pooled, feat_dim)
        self.embed_t = nn.Linear(pair.teacher.pooled, feat_dim)
        bound = math.sqrt(3 / feat_dim)  # rows of length one on average
        for side in ("student", "teacher"):
            self.register_buffer(f"memory_{side}", torch.empty(n, feat_dim).uniform_(-bound, bound))
            self.register_buffer(f"z_{side}", torch.tensor(-1.0))
        # Sorted by class, twice over: the images of other classes are the run after one's own class.
        order = labels.argsort(stable=True)
        self.register_buffer("order", torch.cat([order, order]), persistent=False)
        self.register_buffer("begin_others", sizes.cumsum(0)[labels], persistent=False)
        self.register_buffer("num_others", n - sizes[labels], persistent=False)
        self.most = n - int(sizes[sizes > 0].min())
        # Nearly all of a small set: sorting random keys is cheaper than drawing until all are distinct.
        self.draws = draws_for(self.nce_k, fewest) if 2 * self.nce_k <= fewest else 0

    def negatives(self, batch: Batch) -> Tensor:
        """(B, N) bool, K of each row: which images of the training set are contrasted with the batch's."""
        others, begin = self.num_others[batch.idx, None], self.begin_others[batch.idx, None]  # (B, 1)
        if self.draws:
            # float64: a float32 takes 2^24 values, too few to hit each of many thousand images equally often.
            drawn = (torch.rand(len(begin), self.draws, dtype=torch.float64, device=begin.device) * others).long()
            return distinct(self.order.take(begin + drawn), self.nce_k, self.n)
        key = torch.rand(len(begin), self.most, device=begin.device)
        there = torch.arange(self.most, device=begin.device) < others
        drawn = torch.where(there, key, 2.0).argsort(dim=1)[:, : self.nce_k]
        return there.new_zeros(len(begin), self.n).scatter_(1, self.order.take(begin + drawn), True)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return self.compare(student.pooled, teacher.pooled, batch.idx, self.negatives(batch))

    def compare(self, pooled_s: Tensor, pooled_t: Tensor, idx: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Both terms with given ``negatives`` (B, N), K a row; in training the banks are updated at ``idx``."""
        with torch.autocast(idx.device.type, enabled=False):
            v_s = F.normalize(self.embed_s(pooled_s.to(self.memory_student.dtype)), dim=1)
            v_t = F.normalize(self.embed_t(pooled_t.to(self.memory_teacher.dtype)), dim=1)
            drawn = negatives.to(v_s.dtype)  # a product with numbers takes half the time of one with truths
            named = {
                "contrast_student": self.beta * self.nce(v_s, self.memory_teacher, self.z_student, idx, drawn),
                "contrast_teacher": self.beta * self.nce(v_t, self.memory_student, self.z_teacher, idx, drawn),
            }
        for bank, v in ((self.memory_student, v_s), (self.memory_teacher, v_t)) if self.training else ():
            bank.index_copy_(0, idx, F.normalize(self.nce_m * bank[idx] + (1 - self.nce_m) * v.detach(), dim=1))
        return named

    def nce(self, v: Tensor, bank: Tensor, z: Tensor, idx: Tensor, drawn: Tensor) -> Tensor:
        """v (B, feat_dim), bank (N, feat_dim), idx (B,), drawn (B, N) of 0 and 1 -> (); sets ``z`` below 0."""
        b, k, c = len(v), self.nce_k, self.nce_k / self.n
        # The gradient is taken at once: a graph that kept the bank would forbid its update before backward.
        with torch.no_grad():
            score = matmul(v / self.nce_t, bank.T)  # (B, N)
            own = score.gather(1, idx[:, None])
            x = score.exp_().mul_(drawn) if self.factors else score.exp().where(drawn > 0, 0.0)
            z_now = torch.where(z < 0, (own.exp().sum() + x.sum()) / (b * (1 + k)) * self.n, z)
            shift = z_now.log() + math.log(c + EPS)
            negatives, slope = unmatched(x, score, shift, drawn, self.factors)
            loss = F.softplus(shift - own).mean() + negatives.mean() + k * math.log1p(EPS / c)
            slope.scatter_(1, idx[:, None], -(shift - own).sigmoid())
            grad = matmul(slope, bank) / (b * self.nce_t)
        z.copy_(z_now if self.training else z)
        attached: Tensor = loss + ((v - v.detach()) * grad).sum()  # that value, and that gradient for v
        return attached
