"""HKD: learn from an assistant, layer by layer at first, while the network is still plastic, then from its embedding.

Passalis, Tzelepi, Tefas. Heterogeneous Knowledge Distillation using Information Flow Modeling.
CVPR 2020. https://arxiv.org/abs/2005.00727
"""

import torch
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._pairs import must_show_stages
from kdbench.methods.hkd_port import flow


@register
class HKD(Distiller):
    """loss = CE + KD + beta * (flow_D + w (flow_1 + ... + flow_L)), w = first_weight * decay^epoch.

    flow is the Jeffreys divergence between student and assistant, under a cosine and a Student-t
    kernel: flow_D on the pooled vectors, flow_l on the flattened maps of stage l. The assistant has
    twice the student's width and was distilled from the teacher by PKT.

    Raises:
        ValueError: one of the nets shows no stage beside its stem.
    """

    reference = (
        "Passalis, Tzelepi, Tefas. Heterogeneous Knowledge Distillation using Information Flow Modeling. CVPR 2020."
        " https://arxiv.org/abs/2005.00727"
    )
    provenance = "formula"
    deviations = (
        "CE is part of the loss, with the suite's weight; the authors' student sees no labels, retrieval scores it.",
        "The epochs of the decay are those of a 240-epoch recipe, and shrink with a shorter run; the authors train 50.",
        "The assistant is trained from scratch with the suite's recipe for pkt, CE and the cosine kernel; the authors"
        " start from a network trained with labels and transfer to it under both kernels for 40 epochs.",
        "Both stages run with the suite's SGD; the authors use Adam.",
        "An image's distance to itself is exactly 0, where rounding spoils the release's float32 values; a map of"
        " zeros gets the gradient 0 through its cosines, where the release gives NaN.",
    )
    family = "relation"
    assistant = ("pkt", "double")

    def __init__(
        self,
        pair: Pair,
        *,
        beta: float = 1.0,
        first_weight: float = 100.0,
        decay: float = 0.7,
        epochs: int = 240,
        **common: float,
    ) -> None:
        super().__init__(pair, **common)
        must_show_stages(pair, "hkd")
        self.beta, self.first_weight, self.decay, self.epochs = beta, first_weight, decay, epochs

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        epoch = torch.floor(batch.progress * self.epochs + 1e-4)  # where one begins, float32 may fall just short of it
        w = self.first_weight * self.decay**epoch
        stages = zip(student.feats[1:], teacher.feats[1:], strict=False)
        flows = torch.stack([flow(s, t) for s, t in stages])
        return {
            "embedding": self.beta * flow(student.pooled, teacher.pooled),
            "stages": self.beta * w.to(flows.dtype) * flows.sum(),
        }
