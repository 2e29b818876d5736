from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """Whole numbers beside the default's decimal point: labels and hashes of one value would be two."""

    search = {"beta": (0.01, 0.1, 0.3, 1.0, 3.0, 10)}  # noqa: RUF012
