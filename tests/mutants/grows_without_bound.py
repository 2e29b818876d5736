import torch
import torch.nn.functional as F
from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, Pair, register


@register
class Mutant(Plain):
    """A running sum that no number holds for long."""

    total: Tensor

    def prepare(self, pair: Pair) -> None:
        self.register_buffer("total", torch.ones(pair.teacher.pooled))

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            self.total.mul_(1e6)
        return F.mse_loss(ours, theirs + 1e-9 * self.total)
