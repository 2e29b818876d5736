from mutants.plain import Plain

from kdbench import Pair, register


@register
class Mutant(Plain):
    """Serves no pair."""

    def prepare(self, pair: Pair) -> None:
        raise ValueError("needs a pair of another kind")
