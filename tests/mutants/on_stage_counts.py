from mutants.plain import Plain

from kdbench import register


@register
class Mutant(Plain):
    """Halves a weight each time that a stage begins, and one begins after every evaluation."""

    def on_stage(self, stage: str) -> None:
        self.project.weight.data.mul_(0.5)
