from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """No citation."""

    reference = ""
