import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor, nn

from kdbench import Batch, Outputs, Pair, register


@register
class Mutant(Plain):
    """Drops of the first stage as epochs instead of shares."""

    pretrain_epochs = 60
    pretrain_drops = (30, 45)

    def prepare(self, pair: Pair) -> None:
        self.code = nn.Linear(pair.teacher.pooled, pair.teacher.pooled)

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"code": F.mse_loss(self.code(teacher.pooled), teacher.pooled)}
