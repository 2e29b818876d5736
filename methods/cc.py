"""CC: where student and teacher differ, neighbouring images of the batch must not differ alike.

Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang. Correlation Congruence for Knowledge Distillation.
ICCV 2019. https://arxiv.org/abs/1904.01802
"""

from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


@full_precision
def congruence(e_s: Tensor, e_t: Tensor) -> Tensor:
    """(B, E) each -> (), mean over neighbours of the inner product of their absolute differences."""
    delta = (e_s - e_t).abs()
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)


@register
class CC(Distiller):
    """loss = CE + KD + beta * mean_i <|e_S - e_T|_i, |e_S - e_T|_i+1>.

    e_S and e_T are linear embeddings of the pooled vectors, both trained.
    """

    reference = (
        "Peng et al. Correlation Congruence for Knowledge Distillation. ICCV 2019. https://arxiv.org/abs/1904.01802"
    )
    provenance = "port"
    deviations = (
        "As in the authors' code that every suite uses, there is no correlation matrix and no Gaussian kernel, which"
        " the paper is about, and no sampler of class-balanced batches.",
        "The teacher's embedding is trained too, as released: shrinking both embeddings lowers the loss.",
    )
    family = "relation"
    reads = "pooled"

    def __init__(self, pair: Pair, *, beta: float = 0.02, dim: int = 128, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta = beta
        self.embed_s = nn.Linear(pair.student.pooled, dim)
        self.embed_t = nn.Linear(pair.teacher.pooled, dim)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        e_s, e_t = self.embed_s(student.pooled), self.embed_t(teacher.pooled)  # (B, dim)
        return {"congruence": self.beta * congruence(e_s, e_t)}
