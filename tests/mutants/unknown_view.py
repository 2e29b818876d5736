from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """Asks for a view that nobody makes."""

    views = ("rot45",)
