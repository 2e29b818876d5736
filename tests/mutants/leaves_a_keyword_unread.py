from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Takes a hyper-parameter and forgets it."""

    def __init__(self, pair: Pair, *, gamma: float = 3.0, **common: float) -> None:
        super().__init__(pair, **common)
