"""PFFU, our reading: parameter-free self-attention turns maps of any size into equally long vectors.

Guo, Han, Wang, Zhang, Han. Semantic-aware knowledge distillation with parameter-free feature
uniformization. Visual Intelligence 1:6, 2023. https://doi.org/10.1007/s44267-023-00003-0

Only the abstract could be had, and no code is public. The abstract says: a stand-alone feature-based
classification branch extracts semantic knowledge, and a parameter-free self-attention maps features of
different dimensions to vectors of one length. All else below is ours; quote its numbers as
"PFFU (our reading)", never as the authors' method.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, kl, register
from kdbench.methods._layers import full_precision


@full_precision  # what keeps an empty token from 0 / 0 is 0 itself in half precision
def uniformise(feat: Tensor, side: int, tau_a: float, variant: str = "map") -> Tensor:
    """(B, C, H, W) -> (B, N^2), or (B, N) for the variant "vector", with N = side^2, whatever C, H, W.

    The map is pooled to N tokens X; A = softmax(X X' / tau_a) over rows of unit length. "map" gives A
    itself, "vector" gives A a with a the mean square of each token before it is normalised.
    """
    tokens = F.adaptive_avg_pool2d(feat, side).flatten(2).transpose(1, 2)  # (B, N, C)
    rows = F.normalize(tokens, dim=2)
    attention = (rows @ rows.transpose(1, 2) / tau_a).softmax(dim=2)  # (B, N, N)
    if variant == "map":
        return attention.flatten(1)
    energy = tokens.pow(2).mean(dim=2)  # (B, N)
    return (attention * energy[:, None]).sum(dim=2)


@register
class PFFU(Distiller):
    """loss = CE + KD + beta * sum_l [CE(g(u_T), y) + CE(g(u_S), y) + KL_tau(g(u_S), stopgrad g(u_T)) + lam m].

    u_S, u_T are the uniformised maps of a pair of stages l, m = mean (u_S - u_T)^2, and g one small
    head per pair of stages, shared by both sides; the teacher's u_T trains g, not the teacher.

    Args:
        pair: shapes and facts of the pair.
        grid: side that maps are pooled to, in px; less where a map is smaller.
        tau_a: temperature of the attention. At 1 the rows of A have 99 % of a uniform row's entropy, whatever
            the image, because they come from cosines; at .1 it is 50 to 85 % (ResNet8x4, WRN-16-2, CIFAR-100).
        variant: ``map`` or ``vector``, see ``uniformise``.
        hidden: width of g.
        lam: weight of the matching term; entries of A are small, so are their squares.
        beta: weight of the whole sum.

    Raises:
        ValueError: another ``variant``; a pair without two stages of 2x2 px or more to compare.
    """

    reference = (
        "Guo et al. Semantic-aware knowledge distillation with parameter-free feature uniformization. Visual"
        " Intelligence 1:6, 2023. https://doi.org/10.1007/s44267-023-00003-0"
    )
    provenance = "reading"
    deviations = (
        "Only the abstract was available: the form of the attention, the shared heads, the four terms, the pairing of"
        " the stages from the deepest upwards and every default are our choice.",
        "Stages of 1x1 px are left out: the attention of a single token says nothing.",
    )
    family = "feature"
    roles: ClassVar = {"branch_teacher": "task", "branch_student": "task"}

    def __init__(
        self,
        pair: Pair,
        *,
        grid: int = 4,
        tau_a: float = 0.1,
        variant: Literal["map", "vector"] = "map",
        hidden: int = 256,
        lam: float = 100.0,
        beta: float = 1.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        tau: float = 4.0,
    ) -> None:
        super().__init__(pair, ce_weight=ce_weight, kd_weight=kd_weight, tau=tau)
        if variant not in ("map", "vector"):
            raise ValueError(f"pffu: variant={variant!r} is neither 'map' nor 'vector'")
        self.tau_a, self.variant, self.lam, self.beta = tau_a, variant, lam, beta
        stages = zip(reversed(pair.student.feats[1:]), reversed(pair.teacher.feats[1:]), strict=False)
        sides = [min(grid, *ours[1:], *theirs[1:]) for ours, theirs in stages]
        #: (how deep from the end, side) of each pair of stages that is compared.
        self.levels = [(depth, side) for depth, side in enumerate(sides, start=1) if side > 1]
        if not self.levels:
            raise ValueError(f"pffu: no pair of stages has 2x2 px or more to compare (grid={grid})")
        lengths = [side**4 if variant == "map" else side**2 for _, side in self.levels]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, pair.num_classes)) for n in lengths
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for head, (depth, side) in zip(self.heads, self.levels, strict=True):
            ours = uniformise(student.feats[-depth], side, self.tau_a, self.variant)
            theirs = uniformise(teacher.feats[-depth], side, self.tau_a, self.variant).detach()
            own = next(head.parameters()).dtype
            z_s, z_t = head(ours.to(own)), head(theirs.to(own))
            for name, value in (
                ("branch_teacher", F.cross_entropy(z_t, batch.truth)),
                ("branch_student", F.cross_entropy(z_s, batch.truth)),
                ("branch_kd", kl(z_s, z_t.detach(), self.tau)),
                ("match", self.lam * F.mse_loss(ours, theirs)),
            ):
                sums[name] = sums[name] + self.beta * value if name in sums else self.beta * value
        return sums
