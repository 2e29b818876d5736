"""How long a lane trains and at what learning rate: pure functions of the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD

from kdbench.distiller import Distiller
from kdbench.engine import optimizers

#: Length of the recipe in which methods state the epochs of their pre-training stage.
REFERENCE_EPOCHS = 240
#: One cycle: share of the run in which the rate rises, and what peak and start are divided by (Smith and Topin 2019;
#: the values of torch's OneCycleLR).
RISE, START, END = 0.3, 25.0, 1e4


@dataclass(frozen=True)
class Plan:
    """The recipe of one lane. Epochs count from 0; ``milestones`` are the epochs that are the
    first to run at a tenth (``gamma``) of the rate before (the papers' "after epoch 150", which
    count from 1, is milestone 150 here).

    >>> plan = Plan(epochs=240, lr=0.05, milestones=(150, 180, 210))
    >>> plan.rate(149), round(plan.rate(150), 6)
    (0.05, 0.005)
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    eval_every: int = 1  # the last epoch and the four before it are always evaluated
    schedule: Literal["step", "cosine", "onecycle"] = "step"
    warmup_epochs: int = 0
    min_lr: float = 0.0
    clip_grad: float = 0.0  # largest norm of all gradients of a step together; 0: no limit
    optimizer_name: str = optimizers.SGD
    label_smoothing: float = 0.0
    ema: float = 0.0  # decay of the averaged weights; 0: none are kept
    accumulate: int = 1  # batches of one optimizer step
    gradients: str = "sum"  # or a rule for parts of the loss, see engine.gradients

    def rate(self, epoch: int) -> float:
        """Learning rate of one epoch of the main stage.

        In ``warmup_epochs`` w it rises in equal steps, the e-th epoch (from 0) at (e + 1) / (w + 1) of the rate.
        """
        if self.schedule == "onecycle":
            return one_cycle(self, epoch)
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / (self.warmup_epochs + 1)
        if self.schedule == "cosine":
            return between(self.lr, self.min_lr, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
        return max(self.min_lr, self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones))

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
        """SGD, or what the plan names; ``set_rate`` sets its rate every epoch.

        On CUDA it is fused and its rate a tensor on the device, so that a captured step reads the
        rate of the day and the host is asked nothing. A fused one has all its momenta from the start:
        torch's cannot do with some of them, and leaves them unwritten where a loss scale skips the
        first step.

        Raises:
            ValueError: there is no such optimizer, or a checkpoint cannot bring it back.
        """
        if self.optimizer_name != optimizers.SGD:
            return optimizers.make(
                self.optimizer_name,
                parameters,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
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


def between(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` (share 0) to ``end`` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(plan: Plan, epoch: int) -> float:
    """Rate of one epoch of one cycle: up from ``lr / START`` to ``lr``, then down, each half a cosine.

    It is up after ``warmup_epochs``, where they are stated, else after ``RISE`` of the run, as torch counts, and
    ends at ``min_lr``, where that is not 0, else at ``lr / START / END``. The momentum stays as it is.
    """
    last = plan.epochs - 1
    top = float(plan.warmup_epochs) if plan.warmup_epochs else max(0.0, RISE * plan.epochs - 1)
    if epoch < top:
        return between(plan.lr / START, plan.lr, epoch / top)
    return between(plan.lr, plan.min_lr or plan.lr / START / END, (epoch - top) / (last - top) if last > top else 0.0)


def later(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a plan that a recipe states only where they are not neutral.

    >>> later({"lr": 0.05, "schedule": "cosine"})
    {'schedule': 'cosine'}
    """
    names = ("schedule", "warmup_epochs", "min_lr", "clip_grad", "label_smoothing", "ema", "accumulate", "gradients")
    named = {"optimizer_name": recipe["optimizer"]} if "optimizer" in recipe else {}
    return {name: recipe[name] for name in names if name in recipe} | named


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Learning rate of all parameters; a tensor keeps its place in memory.

    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    >>> set_rate(optimizer, 0.005)
    >>> optimizer.param_groups[0]["lr"]
    0.005
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Momenta of zero for parameters that have none yet.

    The first step then gives the numbers that it gives without them (0 * mu + gradient), and their
    memory is there before a capture, not the graph's own. Only SGD's can be made ahead.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> fill_momentum(optimizer)
    >>> optimizer.state[weight]["momentum_buffer"]
    tensor([0., 0.])
    """
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["momentum"] and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
