"""What `kdbench.bench.costs` times: the step of a student alone, of a method beside it, and the engine's whole one.

Networks are untrained, of CIFAR-100's sizes; every rate is 0, so that each step is done at the same, finite point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.suites.costs import BATCH

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdbench.distiller import Distiller, Outputs
    from kdbench.engine.lane import Lane
    from kdbench.models import Tapped

N_TRAIN, CLASSES, SIDE = 50_000, 100, 32  # CIFAR-100


@dataclass(frozen=True)
class Steps:
    """What is measured. The student's step in the method's company is ``plain`` plus ``extra``."""

    plain: Callable[[], None]  # forward, cross-entropy, backward and optimizer of the student alone
    extra: Callable[[], None]  # the method's loss, its gradients and the optimizer of its own parameters
    views: Callable[[], None] | None  # as ``plain``, on all views of the images; None: there is only one
    whole: Callable[[], None]  # the engine's step of student and method, one after the other
    forward: Callable[[], object]  # the method's loss, from the outputs of both models
    lane: Lane
    train_params: int
    infer_params: int


def prepare(
    method: str,
    pair: str,
    device: torch.device | None = None,
    size: int = BATCH,
    overrides: Mapping[str, object] | None = None,
) -> Steps:
    """Build both models and the method with the values of convention semckd; make what is measured.

    Args:
        method: its name.
        pair: ``teacher:student``.
        device: None: the CPU.
        size: images of a batch.
        overrides: hyper-parameters that have other values.

    Raises:
        ValueError: there is no such method or network, or the method refuses the pair.

    >>> steps = prepare("kd", "resnet20:resnet8", size=2)
    >>> steps.train_params, steps.infer_params  # kd has none of its own
    (0, 0)
    """
    import torch
    import torch.nn.functional as F

    from kdbench import models, registry, suites
    from kdbench.distiller import Batch
    from kdbench.engine.schedule import set_rate
    from kdbench.run import assistants

    device = device or torch.device("cpu")
    teacher_name, _, student_name = pair.partition(":")
    _, teacher_name = assistants.network(method, student_name) or ("", teacher_name)
    teacher, folded = teaching(teacher_name, str(device))
    torch.manual_seed(0)  # whether the teacher was there or not
    student = models.create(student_name, CLASSES)
    labels = torch.arange(N_TRAIN) % CLASSES
    facts = models.make_pair(
        student, teacher, image_shape=(3, SIDE, SIDE), num_classes=CLASSES, train_labels=labels, batch_size=size
    )
    cls = registry.get(method)
    hyper = suites.convention("semckd").hyper(method, pair, cls.hyperparameters())
    built = cls.build(facts, **hyper | dict(overrides or {}))
    lane = a_lane(method, student, built, device)

    every = torch.randn((1 + len(built.views)) * size, 3, SIDE, SIDE).to(device, memory_format=torch.channels_last)
    image = every[:size]
    idx = torch.randperm(N_TRAIN)[:size]
    batch = Batch(every, labels[idx].to(device), idx.to(device), torch.tensor(0.5, device=device))
    params = (lane.extra_train_params(), lane.extra_infer_params(image))
    lane.train_mode()

    own = [p for p in built.parameters() if p.requires_grad]
    optimizer = lane.plan.optimizer(student.parameters(), device)
    own_optimizer = lane.plan.optimizer(own, device) if own else None
    for one in (optimizer, own_optimizer):
        if one:
            set_rate(one, 0.0)
    with torch.no_grad():
        shown = folded(every)
    seen = leaves(student(every))

    def step_of_student(images: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = student(images).logits
        F.cross_entropy(logits, batch.label.repeat(len(logits) // size)).backward()
        optimizer.step()

    def forward() -> dict[str, torch.Tensor]:
        return built.loss(seen, shown, batch)

    def extra() -> None:
        terms = forward()
        if not terms:
            return
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        if own_optimizer:
            own_optimizer.step()
            own_optimizer.zero_grad(set_to_none=True)
        for leaf in seen.tensors().values():
            leaf.grad = None

    return Steps(
        plain=lambda: step_of_student(image),
        extra=extra,
        views=(lambda: step_of_student(every)) if built.views else None,
        whole=whole_step(lane, shown, every, batch.label, batch.idx),
        forward=forward,
        lane=lane,
        train_params=params[0],
        infer_params=params[1],
    )


def a_lane(name: str, student: nn.Module, method: Distiller, device: torch.device) -> Lane:
    """A lane in the main stage, at a rate of 0: the same arithmetic, each time at the same, finite point."""
    from kdbench.engine.lane import Lane
    from kdbench.engine.precision import Precision
    from kdbench.engine.schedule import Plan, set_rate

    precision = Precision()
    precision.prepare(device)
    lane = Lane(
        name,
        student,
        method,
        Plan(240, 0.05),
        seed=0,
        path=Path(),
        settings="",
        teacher="",
        device=device,
        precision=precision,
    )
    lane.enter("train")
    set_rate(lane.optimizer, 0.0)
    return lane


def whole_step(
    lane: Lane, shown: Outputs | None, image: torch.Tensor, label: torch.Tensor, idx: torch.Tensor
) -> Callable[[], None]:
    """The engine's step of a lane on a batch, with the teacher's outputs at hand."""
    import torch

    from kdbench.distiller import Batch

    parts = (label.to(lane.device), idx.to(lane.device), torch.tensor(0.5, device=lane.device))
    batch = Batch(image, *parts)

    def step() -> None:
        with lane.own_rng():
            lane.update(shown, batch)

    return step


def settle(model: nn.Module) -> None:
    """Give an untrained model's batch norms the statistics of noise; in eval mode its maps stay in range."""
    import torch

    kinds = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d | torch.nn.SyncBatchNorm
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what follows
    model.train()
    with torch.no_grad():
        model(torch.randn(64, 3, SIDE, SIDE))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval().requires_grad_(False)


def leaves(seen: Outputs) -> Outputs:
    """The outputs of a student as ends of a graph: a loss on them stops there."""
    return seen.map(lambda tensor: tensor.detach().requires_grad_(True))


@lru_cache(maxsize=2)
def teaching(name: str, device: str) -> tuple[Tapped, Tapped]:
    """An untrained teacher, and the folded copy that is run; nothing changes them, so many methods share one."""
    from kdbench import models

    teacher = models.create(name, CLASSES)
    settle(teacher)
    teacher.to(device)
    return teacher, models.fold(teacher)
