import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Makes a text of a number that lies on the device."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        _ = f"{theirs.mean():.3f}"
        return F.mse_loss(ours, theirs)
