import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """Names its term with an order to the terminal."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"match\x1b[2J": self.beta * F.mse_loss(self.project(student.pooled), teacher.pooled)}
