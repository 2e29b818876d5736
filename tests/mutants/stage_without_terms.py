from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """A first stage without a loss."""

    pretrain_epochs = 60
