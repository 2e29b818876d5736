import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """The time becomes a Python number, which a captured step would repeat for ever."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        return min(float(batch.progress) / 0.1, 1.0) * F.mse_loss(ours, theirs)
