from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """It would be tuned with fewer trials than the others."""

    search = {"beta": (0.1, 0.3, 1.0, 3.0, 10.0)}  # noqa: RUF012
