import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Picks rows by a mask: a size that only the device knows."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        far = (ours - theirs).square().mean(dim=1) >= 0
        return F.mse_loss(ours[far], theirs[far])
