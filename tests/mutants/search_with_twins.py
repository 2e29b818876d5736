from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """One of its six trials is for nothing."""

    search = {"beta": (0.01, 0.1, 0.1, 1.0, 3.0, 10.0)}  # noqa: RUF012
