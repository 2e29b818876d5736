from mutants.plain import Plain
from torch import nn

from kdbench import Pair, register


@register
class Mutant(Plain):
    """A parameter that no loss uses."""

    def prepare(self, pair: Pair) -> None:
        self.spare = nn.Linear(4, 4)
