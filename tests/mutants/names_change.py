import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """Another name for the term of the shorter last batch."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        name = f"match{len(batch.label)}"
        return {name: F.mse_loss(self.project(student.pooled), teacher.pooled)}
