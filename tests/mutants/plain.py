"""The right method that every mutant spoils in one place. Mutants say in their docstring how."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair


class Plain(Distiller):
    """loss = CE + beta * mean (P(f_S) - f_T)^2."""

    reference = "Nobody. Nothing. Nowhere. https://example.org"
    provenance = "reading"

    def __init__(self, pair: Pair, *, beta: float = 1.0, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta = beta
        self.project = nn.Linear(pair.student.pooled, pair.teacher.pooled)
        self.prepare(pair)

    def prepare(self, pair: Pair) -> None:
        """What a mutant adds."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"match": self.beta * self.distance(self.project(student.pooled), teacher.pooled, batch)}

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        """What a mutant computes instead; (B, D) each."""
        return F.mse_loss(ours, theirs)
