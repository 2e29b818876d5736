import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """Takes beta, keeps it, and does not use it."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"match": F.mse_loss(self.project(student.pooled), teacher.pooled)}
