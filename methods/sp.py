"""SP: images that look alike to the teacher must look alike to the student.

Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019. https://arxiv.org/abs/1907.09682

No map of the student is compared with one of the teacher, only similarities with similarities; so no
layer is needed between nets of any two shapes. The batch size is part of the method.
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision


@full_precision
def similarity(feat: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, B), inner products between the images of the batch, rows of length one."""
    flat = feat.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


@register
class SP(Distiller):
    """loss = CE + KD + beta / B^2 * |G_T - G_S|_F^2, G the row-normalised similarities of the deepest stage.

    Raises:
        ValueError: batches of one image, whose similarity is always 1.
    """

    reference = "Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019. https://arxiv.org/abs/1907.09682"
    provenance = "port"
    deviations = ("Only the deepest stage is compared, as in the released recipe; the formula admits any set of them.",)
    family = "relation"

    def __init__(self, pair: Pair, *, beta: float = 3000.0, **common: float) -> None:
        super().__init__(pair, **common)
        if pair.batch_size < 2:
            raise ValueError(f"sp: batch_size={pair.batch_size} leaves no two images to compare; take 2 or more")
        self.beta = beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = similarity(student.feats[-1]), similarity(teacher.feats[-1])
        return {"similarity": self.beta * F.mse_loss(ours, theirs)}
