"""A method that keeps every rule: a projection, a memory bank, a warm-up, random draws, a first stage."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Distiller, Outputs, Pair, register


@register
class Right(Distiller):
    """loss = CE + KD + beta * warm-up * (mean (P(f_S) - E(f_T))^2 + mean (P(f_S) - bank)^2)."""

    reference = "Nobody. Nothing. Nowhere. https://example.org"
    provenance = "reading"
    needs_hard_labels = True  # its bank is kept by idx
    family = "two-stage"
    pretrain_epochs = 20
    pretrain_drops = (0.5,)

    bank: Tensor
    mask: Tensor

    def __init__(self, pair: Pair, *, beta: float = 1.0, width: int = 6, keep: float = 0.9, **common: float) -> None:
        super().__init__(pair, **common)
        self.beta, self.keep = beta, keep
        self.project = nn.Linear(pair.student.pooled, width)
        self.encode = nn.Sequential(nn.Linear(pair.teacher.pooled, width), nn.BatchNorm1d(width))
        self.decode = nn.Linear(width, pair.teacher.pooled)
        self.register_buffer("bank", torch.randn(pair.num_train, width))
        self.register_buffer("mask", torch.ones(width), persistent=False)

    def on_stage(self, stage: str) -> None:
        first = stage == "pretrain"
        self.encode.requires_grad_(first).train(first)
        self.decode.requires_grad_(first)
        self.project.requires_grad_(not first)

    def pretrain_terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"code": F.mse_loss(self.decode(self.encode(teacher.pooled)), teacher.pooled)}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = self.project(student.pooled), self.encode(teacher.pooled).float()
        old = self.bank[batch.idx]
        with torch.no_grad():
            self.bank.index_copy_(0, batch.idx, self.keep * old + (1 - self.keep) * theirs)
        chosen = self.mask * (torch.rand_like(theirs) < 0.8)
        weight = self.beta * (batch.progress / 0.2).clamp(max=1)
        return {
            "code": weight * (chosen * (ours - theirs).square()).mean(),
            "bank": weight * (chosen * (ours - old).square()).mean(),
        }
