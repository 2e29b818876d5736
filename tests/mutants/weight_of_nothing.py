from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Tuning would scale 0."""

    def __init__(self, pair: Pair, *, beta: float = 0.0, **common: float) -> None:
        super().__init__(pair, beta=beta, **common)
