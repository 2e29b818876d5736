import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Reads hard labels and does not say so."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        each = F.mse_loss(ours, theirs, reduction="none").mean(dim=1)
        return (each * (1 + batch.label)).mean()
