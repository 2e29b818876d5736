from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Outputs, register


@register
class Mutant(Plain):
    """log(softmax(z)) instead of log_softmax(z)."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        p, q = student.logits.softmax(dim=1), teacher.logits.softmax(dim=1)
        divergence = (q * (q.log() - p.log())).sum(dim=1).mean()
        return {"logits": divergence, **super().terms(student, teacher, batch)}
