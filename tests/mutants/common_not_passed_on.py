from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Weights that are taken and dropped."""

    def __init__(self, pair: Pair, *, beta: float = 1.0, **common: float) -> None:
        super().__init__(pair, beta=beta)
