"""How long a lane trains and at what learning rate: pure functions of the epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from kdbench.distiller import Distiller

#: Length of the recipe in which methods state the epochs of their first stage.
REFERENCE_EPOCHS = 240


@dataclass(frozen=True)
class Plan:
    """The recipe of one lane. Epochs count from 0; ``milestones`` are the epochs that are the
    first to run at a tenth (``gamma``) of the rate before (the papers' "after epoch 150", which
    count from 1, is milestone 150 here)."""

    epochs: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    eval_every: int = 1  # the last epoch and the four before it are always evaluated

    def rate(self, epoch: int) -> float:
        """Learning rate of one epoch of the main stage."""
        return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)

    def evaluates(self, epoch: int) -> bool:
        """Whether the test set is looked at after this epoch."""
        return epoch >= self.epochs - 5 or (epoch + 1) % self.eval_every == 0

    def pretrain_epochs(self, method: Distiller | type[Distiller]) -> int:
        """Epochs of a method's first stage: stated for 240, scaled with the run, at least one."""
        if not method.pretrain_epochs:
            return 0
        return max(1, round(method.pretrain_epochs * self.epochs / REFERENCE_EPOCHS))

    def pretrain_rate(self, method: Distiller, epoch: int) -> float:
        """Learning rate of one epoch of the first stage."""
        start = self.lr if method.pretrain_lr is None else method.pretrain_lr
        share = epoch / self.pretrain_epochs(method)
        return start * 0.1 ** sum(share >= drop for drop in method.pretrain_drops)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD; the rate is set every epoch."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )
