from mutants.plain import Plain
from torch import Tensor

from kdbench import Batch, register


@register
class Mutant(Plain):
    """Ends the program."""

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        raise SystemExit(3)
