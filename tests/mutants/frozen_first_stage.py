import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor, nn

from kdbench import Batch, Outputs, Pair, register


@register
class Mutant(Plain):
    """Freezes what the first stage should train."""

    pretrain_epochs = 60

    def prepare(self, pair: Pair) -> None:
        self.code = nn.Linear(pair.teacher.pooled, pair.teacher.pooled)

    def on_stage(self, stage: str) -> None:
        self.requires_grad_(False)

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"code": F.mse_loss(self.code(teacher.pooled), teacher.pooled)}
