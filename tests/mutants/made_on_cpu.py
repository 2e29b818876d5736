import torch
import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Makes a tensor without saying on which device."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(ours, theirs / torch.arange(1.0, 1.0 + len(theirs))[:, None])
