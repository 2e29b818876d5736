import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Writes into a map of the teacher what was there before; the engine goes by the writing."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(ours, theirs.mul_(1))
