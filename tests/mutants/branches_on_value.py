import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """A branch on the value of a tensor."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        distance = F.mse_loss(ours, theirs)
        return 2 * distance if distance.item() > 0.01 else distance
