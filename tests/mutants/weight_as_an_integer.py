from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """The command line takes no 0.1 where the default is 1."""

    def __init__(self, pair: Pair, *, beta: int = 1, **common: float) -> None:
        super().__init__(pair, beta=beta, **common)
