"""Rules for the gradients of parts of a loss: each has a momentum of its own, or the weight that one would give it.

A rule belongs to the recipe, so any method can be trained by it and none knows of it. With SGD a weight w moves by

    v_i <- mu_i v_i + g_i,        w <- w - lr (v_quick + v_slow),        mu_quick = mu - gap,  mu_slow = mu + gap

where g_i is the gradient of one part's terms. DOT (Zhao, Cui, Song and Liang, ICCV 2023): quick are the task's terms
(cross-entropy), slow is all distillation. DeepKD (Huang et al., NeurIPS 2025): quick is what pulls at the label's class
of the teacher, slow are the task and the rest. Weight decay goes with the task, as in DOT's formula. A weight that one
part alone reaches, such as a regressor's or, with a loss on feature maps alone, the classifier's, has nothing to
balance: its momentum is mu, as in DOT's release, and its decay goes with the part that there is.

A steady gradient moves a weight by 1 / (1 - mu_i), so a gap of 0.075 around 0.9 also weighs the quick part 0.57 times
and the slow one 4 times as much as one momentum does. What comes of the weights and what of the momenta is told apart
by the control, ``dot-scaled`` or ``deepkd-scaled``: one momentum, under which the parts that the rule would part, and
the decay, weigh that much.

Where the loss has one part, the whole is plain SGD: the stage before the main one, and methods without a teacher (the
plain student). The rule is that of DeepKD's paper. Its release differs: the task's momentum is the quick one for
weights that two parts reach, weight decay goes with the label's part, and the teacher's lower classes are masked early
in the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdbench.distiller import ROLES, Distiller
from kdbench.engine import stepping
from kdbench.engine.errors import Failed
from kdbench.engine.schedule import Plan
from kdbench.utils.gradient_rules import Rule, parse

#: Names of the momenta in the optimizer's state, quick and slow.
MOMENTA = ("momentum_buffer", "slow_buffer")


class Lane(stepping.Lane, Protocol):
    """What is set or asked of a lane; ``engine.lane`` has it, and imports this file."""

    stage: str
    method: Any
    device: torch.device

    def own_rng(self) -> AbstractContextManager[None]:
        """The lane's random numbers inside."""


class TwoMomenta(torch.optim.SGD):
    """SGD in which two parts of a loss have a momentum each.

    ``collect`` takes the gradients of the parts, ``step`` moves the weights by them. A weight that no part reaches
    stays as it is. It obeys a loss scale as torch's fused optimizers do: a step whose gradients overflowed is not
    taken, and nothing waits for the host. Where one part alone reaches a weight, its momentum is the mean of the two.

    Args:
        trained: parameters.
        lr: rate; a tensor on the device where steps are captured.
        momenta: of the quick and of the slow part.
        gains: what the gradients of the parts are multiplied by where both reach a weight.
        weight_decay: joins the part ``decays``, or the one that there is.
        decays: 0, the quick part, or 1, the slow one.
        fused: whether a loss scale may hand over its verdict on the device.

    >>> both, alone = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    >>> optimizer = TwoMomenta([both, alone], 0.1, (0.5, 0.9), weight_decay=0.0, decays=0)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     optimizer.collect(0, [torch.ones(1), torch.ones(1)])
    ...     optimizer.collect(1, [torch.zeros(1), None])
    ...     optimizer.step()
    >>> f"{both.item():.2f} {alone.item():.2f}"  # 1 - 0.1 - 0.1 * 1.5 and 1 - 0.1 - 0.1 * 1.7
    '0.75 0.73'
    """

    def __init__(
        self,
        trained: Sequence[nn.Parameter],
        lr: float | Tensor,
        momenta: tuple[float, float],
        *,
        gains: tuple[float, float] = (1.0, 1.0),
        weight_decay: float,
        decays: int,
        fused: bool = False,
    ) -> None:
        self.trained = list(trained)
        self.collected: list[list[Tensor | None]] = [[None] * len(self.trained) for _ in MOMENTA]
        super().__init__(
            self.trained, lr=lr, momentum=momenta[0], weight_decay=weight_decay, fused=True if fused else None
        )
        self.momenta, self.gains, self.decays = momenta, gains, decays
        for parameter in self.trained:
            self.state[parameter] = {name: torch.zeros_like(parameter) for name in MOMENTA}

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a whole lane: torch's own leaves out what a class has beside it."""
        own = ("trained", "collected", "momenta", "gains", "decays")
        return super().__getstate__() | {name: vars(self)[name] for name in own}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parts."""
        super().zero_grad(set_to_none)
        self.collected = [[None] * len(self.trained) for _ in MOMENTA]

    def collect(self, part: int, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of a part, in the order of the parameters; None: it does not reach one."""
        own = self.collected[part]
        for at, gradient in enumerate(gradients):
            if gradient is not None:
                before = own[at]
                own[at] = gradient if before is None else before + gradient

    def weigh(self, factor: float | Tensor) -> None:
        """Multiply all gradients that are collected."""
        self.collected = [[None if one is None else one * factor for one in own] for own in self.collected]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights."""
        overflowed = getattr(self, "found_inf", None)
        group = self.param_groups[0]
        for parameter, *found in zip(self.trained, *self.collected, strict=True):
            reached = [part for part, gradient in enumerate(found) if gradient is not None]
            if not reached:
                continue
            both, moves = len(reached) == len(found), []
            for part, (name, momentum, gradient) in enumerate(zip(MOMENTA, self.momenta, found, strict=True)):
                if gradient is not None:
                    if group["weight_decay"] and (part == self.decays or not both):
                        gradient = gradient + group["weight_decay"] * parameter
                    gradient = gradient * self.gains[part] if both and self.gains[part] != 1 else gradient
                    momentum = momentum if both else sum(self.momenta) / 2
                kept = self.state[parameter][name]
                moved = kept * momentum if gradient is None else kept * momentum + gradient
                moves.append(moved)
                kept.copy_(moved if overflowed is None else torch.where(overflowed > 0, kept, moved))
            changed = parameter - group["lr"] * (moves[0] + moves[1])
            parameter.copy_(changed if overflowed is None else torch.where(overflowed > 0, parameter, changed))


def active(plan: Plan, method: Distiller, stage: str) -> Rule | None:
    """The rule that a stage of a lane trains by; None: plain SGD or whatever the plan names.

    >>> from kdbench.testing.examples import lanes
    >>> plan, (lane,) = Plan(240, 0.05, gradients="dot"), lanes("kd")
    >>> str(active(plan, lane.method, "train")), active(plan, lane.method, "pretrain")
    ('dot:0.075', None)
    """
    return parse(plan.gradients) if stage == "train" and type(method).needs_teacher else None


def prepare(plan: Plan, method: Distiller, *, compiles: bool) -> None:
    """Tell a method, before it is trained, what a rule needs of its loss.

    Raises:
        ValueError: the rule cannot be had with this method, or with a compiled student.
    """
    rule = active(plan, method, "train")
    if rule is None:
        return
    if strange := sorted({str(role) for role in method.roles.values() if role not in ROLES}):
        raise ValueError(f"{', '.join(strange)} is no role of a term; there are {', '.join(ROLES)}")
    if compiles:
        raise ValueError(f"gradients={rule} goes twice through a student, which compiled code cannot; run --no-compile")
    if rule.quick == "target":
        if not (method.kd_weight or "target" in method.roles.values()):
            raise ValueError(_undivided(rule, method))
        method.split_kd = True


def optimizer(lane: Lane, trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """That of the stage, with two momenta where a rule asks for them."""
    plan, rule = lane.plan, active(lane.plan, lane.method, lane.stage)
    if rule is None:
        return plan.optimizer(trained, lane.device, fused=lane.scaler.enabled)
    on_device = lane.device.type == "cuda"
    return TwoMomenta(
        trained,
        torch.tensor(plan.lr, device=lane.device) if on_device else plan.lr,
        (plan.momentum, plan.momentum) if rule.scaled else rule.momenta(plan.momentum),
        gains=rule.gains(plan.momentum) if rule.scaled else (1.0, 1.0),
        weight_decay=plan.weight_decay,
        decays=_part(rule, "task"),
        fused=on_device or lane.scaler.enabled,
    )


def totals(lane: Lane, terms: dict[str, Tensor]) -> list[Tensor]:
    """What is minimised, () each: one sum of all terms, or that of the quick part and that of the slow one.

    A part of which the loss has no term is a 0 without a gradient.

    Raises:
        Failed: a rule tells parts apart that the loss does not.
    """
    rule = active(lane.plan, lane.method, lane.stage)
    if rule is None:
        return [_sum(terms.values())]
    roles = {"ce": "task", "kd_target": "target"} | dict(lane.method.roles)
    parts: list[list[Tensor]] = [[], []]
    for name, term in terms.items():
        parts[_part(rule, roles.get(name, "rest"))].append(term)
    if rule.quick == "target" and not parts[0]:
        raise Failed(_undivided(rule, lane.method))
    zero = next(iter(terms.values())).detach().float() * 0
    return [_sum(part) if part else zero for part in parts]


def backward(lane: Lane, sums: Sequence[Tensor]) -> None:
    """The gradients of a batch's ``totals`` and the step that is due after them."""
    if len(sums) == 1:
        stepping.backward(lane, sums[0])
        return
    two, each = lane.optimizer, lane.plan.accumulate
    assert isinstance(two, TwoMomenta)
    if not lane.waiting:
        two.zero_grad()
    reached = [part for part, one in enumerate(sums) if one.requires_grad]
    if not reached:
        sums[0].backward()  # raises what torch says of a loss without a gradient
    for part in reached:
        scaled = lane.scaler.scale(sums[part] / each if each > 1 else sums[part])
        found = torch.autograd.grad(scaled, two.trained, retain_graph=part != reached[-1], allow_unused=True)
        two.collect(part, found)
    lane.waiting += 1
    if lane.waiting == each:
        apply(lane)


def apply(lane: Lane) -> None:
    """As ``stepping.apply``, of gradients in two parts: limited is the norm of their sum, and both alike."""
    two, plan = lane.optimizer, lane.plan
    if not isinstance(two, TwoMomenta):
        stepping.apply(lane)
        return
    if lane.waiting != plan.accumulate:
        two.weigh(plan.accumulate / lane.waiting)
    lane.waiting = 0
    if plan.clip_grad or lane.scaler.enabled:
        for parameter, quick, slow in zip(two.trained, *two.collected, strict=True):
            parameter.grad = slow if quick is None else quick if slow is None else quick + slow
    if lane.scaler.enabled:  # what is scaled is looked at for overflows, what is stepped with is not scaled
        two.weigh(1 / lane.scaler.scale(torch.ones((), device=lane.device)))
    if plan.clip_grad:
        lane.scaler.unscale(two)
        norm = nn.utils.get_total_norm([one.grad for one in two.trained if one.grad is not None])
        two.weigh((plan.clip_grad / (norm + 1e-6)).clamp(max=1.0))
    lane.scaler.step(two)
    if lane.average is not None:
        lane.average.update()


def finish(lane: Lane) -> None:
    """At the end of an epoch: the gradients that wait, if any, make a step of their own."""
    if lane.waiting:
        with lane.own_rng():
            apply(lane)


def standing(optimizer: torch.optim.Optimizer) -> int:
    """Copies of the trained weights that are kept between steps: gradients and momenta; those of two parts are more.

    >>> standing(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    2
    """
    return 5 if isinstance(optimizer, TwoMomenta) else 2


def _part(rule: Rule, role: str) -> int:
    return 0 if role == rule.quick else 1


def _sum(terms: Any) -> Tensor:
    return torch.stack([term.float() for term in terms]).sum()


def _undivided(rule: Rule, method: Distiller) -> str:
    give = "give it a kd_weight above 0, or " if "kd_weight" in method.hyperparameters() else ""
    return (
        f"gradients={rule} tells apart what pulls at the label's class, and this loss has no such part;"
        f" {give}take gradients=dot"
    )
