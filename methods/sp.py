"""SP: images that look alike to the teacher must look alike to the student.

Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019. https://arxiv.org/abs/1907.09682

No map of the student is compared with one of the teacher, only similarities with similarities; so no
layer is needed between nets of any two shapes. The batch size is part of the method.
"""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Distiller, Outputs, Pair, register
from kdbench.methods._layers import full_precision, gram, rows


@full_precision
def similarity(feat: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, B), inner products between the images of the batch, rows of length one."""
    return F.normalize(gram(rows(feat)), dim=1)


@register
class SP(Distiller):
    """loss = CE + KD + beta / B^2 * |G_T - G_S|_F^2, G the row-normalised similarities of the deepest stage.

    ``taps`` names other ones, "2/3"; the loss is then the sum over them.

    Raises:
        ValueError: batches of one image, whose similarity is always 1; ``taps`` cannot be read or names one that the
            pair does not share.
    """

    reference = "Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019. https://arxiv.org/abs/1907.09682"
    provenance = "port"
    deviations = (
        "By default only the deepest stage is compared, as in the released recipe; the formula admits any set of them.",
    )
    family = "relation"

    def __init__(self, pair: Pair, *, beta: float = 3000.0, taps: str = "", **common: float) -> None:
        super().__init__(pair, **common)
        if pair.batch_size < 2:
            raise ValueError(f"sp: batch_size={pair.batch_size} leaves no two images to compare; take 2 or more")
        shared = min(len(pair.student.feats), len(pair.teacher.feats))
        named = [tap.strip() for tap in str(taps).split("/")] if str(taps) else ["-1"]
        if taps != "" and any(not tap.isdecimal() or int(tap) >= shared for tap in named):
            raise ValueError(f"sp: taps={taps!r} is not there; this pair shares taps 0 to {shared - 1}, written as 2/3")
        self.beta, self.taps = beta, [int(tap) for tap in named]

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        gaps = [F.mse_loss(similarity(student.feats[tap]), similarity(teacher.feats[tap])) for tap in self.taps]
        return {"similarity": self.beta * sum(gaps[1:], start=gaps[0])}
