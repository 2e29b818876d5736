"""HKD: match, layer by layer, with which probability each image has each other one as a neighbour.

Passalis, Tzelepi, Tefas. Heterogeneous Knowledge Distillation using Information Flow Modeling.
CVPR 2020. https://arxiv.org/abs/2005.00727
"""

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, gram, rows
from kdbench.methods._pairs import must_show_stages
from kdbench.methods.irg import square_distances


def cosine_kernel(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), cosines mapped to [0, 1]; above 0 by as much as keeps its logarithm finite."""
    length = torch.linalg.vector_norm(x, dim=1)
    inverse = 1 / (length + 1e-6).masked_fill(length == 0, torch.inf)  # a row of zeros gets no gradient
    cosine = gram(x) * (inverse[:, None] * inverse)
    shares: Tensor = ((cosine + 1) / 2).clamp_min(1e-12)
    return shares


def student_t_kernel(x: Tensor) -> Tensor:
    """(B, D) -> (B, B), 1 / (1 + distance)."""
    return 1 / (1 + (square_distances(x) + 1e-6).sqrt())


def jeffreys(k_s: Tensor, k_t: Tensor) -> Tensor:
    """(B, B) similarities each -> (), mean (p_T - p_S)(log p_T - log p_S), rows being probabilities."""
    p_s, p_t = (k / k.sum(dim=1, keepdim=True) for k in (k_s, k_t))
    return ((p_t - p_s) * (p_t.log() - p_s.log())).mean()


@full_precision
def flow(f_s: Tensor, f_t: Tensor) -> Tensor:
    """(B, C, H, W) each, of any two shapes -> (), the divergences under both kernels."""
    s, t = rows(f_s), rows(f_t)
    return jeffreys(cosine_kernel(s), cosine_kernel(t)) + jeffreys(student_t_kernel(s), student_t_kernel(t))


@register
class HKDPort(Distiller):
    """loss = CE + KD + beta * (first_weight * flow_1 + flow_2 + ... + flow_L), over the stages.

    flow is the Jeffreys divergence between student and assistant, under a cosine and a Student-t
    kernel on the flattened maps. The assistant has twice the student's width and was distilled
    from the teacher by PKT.

    Raises:
        ValueError: one of the nets shows no stage beside its stem.
    """

    reference = (
        "Passalis, Tzelepi, Tefas. Heterogeneous Knowledge Distillation using Information Flow Modeling. CVPR 2020."
        " https://arxiv.org/abs/2005.00727"
    )
    provenance = "port"
    deviations = (
        "After the SemCKD repository's port, from which the published HKD rows come: the weight of 100 stays on the"
        " first stage all along; the authors let all intermediate weights decay with the epochs.",
        "The port's decay (.7 per layer) is left out: it is computed there and never multiplied in.",
        "The assistant is the network of its last epoch; the port takes that of its best epoch on the test set.",
        "An image's distance to itself is exactly 0; the release has it from rounding, which spoils its float32 values."
        " A map of zeros gets the gradient 0 through its cosines, where the release gives NaN.",
    )
    family = "relation"
    assistant = ("pkt", "double")

    def __init__(self, pair: Pair, *, beta: float = 1.0, first_weight: float = 100.0, **common: float) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "hkd_port")
        self.beta, self.first_weight = beta, first_weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        stages = zip(student.feats[1:], teacher.feats[1:], strict=False)
        flows = torch.stack([flow(s, t) for s, t in stages])
        return {"first": self.beta * self.first_weight * flows[0], "others": self.beta * flows[1:].sum()}
