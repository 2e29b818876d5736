import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """view(), which fails on channels-last maps."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = (seen.last.view(len(batch.label), -1).square().mean(dim=1) for seen in (student, teacher))
        return {"energy": F.mse_loss(ours, theirs), **super().terms(student, teacher, batch)}
