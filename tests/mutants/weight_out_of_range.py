from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """A weight of which tuning would try ten times the default, and which is a share."""

    def __init__(self, pair: Pair, *, beta: float = 0.2, **common: float) -> None:
        super().__init__(pair, beta=beta, **common)
        if beta > 1:
            raise ValueError(f"beta={beta} is no share")
