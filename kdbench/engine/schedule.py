"""How long a lane trains and at what learning rate: pure functions of the epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdbench.distiller import Distiller

#: Length of the recipe in which methods state the epochs of their pre-training stage.
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
        """Epochs of a method's pre-training stage: stated for 240, scaled with the run, at least one."""
        if not method.pretrain_epochs:
            return 0
        return max(1, round(method.pretrain_epochs * self.epochs / REFERENCE_EPOCHS))

    def pretrain_rate(self, method: Distiller, epoch: int) -> float:
        """Learning rate of one epoch of the pre-training stage."""
        start = self.lr if method.pretrain_lr is None else method.pretrain_lr
        share = epoch / self.pretrain_epochs(method)
        return start * 0.1 ** sum(share >= drop for drop in method.pretrain_drops)

    def optimizer(
        self, parameters: Iterable[nn.Parameter], device: torch.device, *, fused: bool = False
    ) -> torch.optim.Optimizer:
        """SGD; ``set_rate`` sets its rate every epoch.

        On CUDA it is fused and its rate a tensor on the device, so that a captured step reads the
        rate of the day and the host is asked nothing. A fused one has all its momenta from the start:
        torch's cannot do with some of them, and leaves them unwritten where a loss scale skips the
        first step.
        """
        on_device = device.type == "cuda"
        made = torch.optim.SGD(
            parameters,
            lr=torch.tensor(self.lr, device=device) if on_device else self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True if fused or on_device else None,
        )
        if made.defaults["fused"]:
            fill_momentum(made)
        return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Learning rate of all parameters; a tensor keeps its place in memory."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Momenta of zero for parameters that have none yet.

    The first step then gives the numbers that it gives without them (0 * mu + gradient), and their
    memory is there before a capture, not the graph's own.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["momentum"] and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
