from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Tuning does not know what to scale."""

    def __init__(self, pair: Pair, *, gamma: float = 0.2, ce_weight: float = 1.0) -> None:
        super().__init__(pair, beta=gamma, ce_weight=ce_weight)
