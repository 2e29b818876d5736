from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """Says that logits are all it reads."""

    reads = "logits"
