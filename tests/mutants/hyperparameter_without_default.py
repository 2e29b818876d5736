from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """A hyper-parameter without a default."""

    def __init__(self, pair: Pair, *, beta: float, **common: float) -> None:
        super().__init__(pair, beta=beta, **common)
