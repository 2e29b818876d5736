from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """A default that the command line cannot change."""

    def __init__(self, pair: Pair, *, beta: float | None = None, **common: float) -> None:
        super().__init__(pair, beta=1.0 if beta is None else beta, **common)
