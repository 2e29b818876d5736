from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """Departures as one string, which would print letter by letter."""

    deviations = "One sentence."  # type: ignore[assignment]
