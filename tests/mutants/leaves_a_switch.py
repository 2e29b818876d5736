import torch
from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Sets a switch of torch for all methods."""

    def prepare(self, pair: Pair) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
