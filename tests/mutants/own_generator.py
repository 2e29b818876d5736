import torch
import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Pair, register


@register
class Mutant(Plain):
    """Draws from a generator that no checkpoint holds."""

    def prepare(self, pair: Pair) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(ours, theirs * torch.rand(theirs.shape, generator=self.generator))
