from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """Puts its own terms in the place of the whole loss."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return self.terms(student, teacher, batch)
