from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, Pair, register

BETA = [1.0]


@register
class Mutant(Plain):
    """Keeps its weight in the module, so that the instance built last decides for all."""

    def prepare(self, pair: Pair) -> None:
        BETA[0] = self.beta

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"match": BETA[0] * self.distance(self.project(student.pooled), teacher.pooled, batch)}
