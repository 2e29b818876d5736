"""What a method costs beside its student: measured, kept in suites/cost.csv, shown by `kdbench info`.

    python -m kdbench.bench.costs               measure every method anew and rewrite the table
    python -m kdbench.bench.costs crd,nst       these alone; the other rows stay

A method's loss should cost at most a quarter of its student's step. Those that cannot are in ``EXPENSIVE``,
each with its reason.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kdbench.suites.costs import BATCH, TABLE, Cost, load, save

if TYPE_CHECKING:
    from torch import nn

    from kdbench.distiller import Outputs

PAIR = "resnet32x4:resnet8x4"
N_TRAIN, CLASSES, SIDE = 50_000, 100, 32  # CIFAR-100


@dataclass(frozen=True)
class Steps:
    """What is timed in turn. The student's step in the method's company is ``plain`` plus ``extra``."""

    plain: Callable[[], None]  # forward, cross-entropy, backward and optimizer of the student alone
    extra: Callable[[], None]  # the method's loss, its gradients and the optimizer of its own parameters
    views: Callable[[], None] | None  # as ``plain``, on all views of the images; None: there is only one
    train_params: int
    infer_params: int


def measure(method: str, pair: str = PAIR, *, n: int = 7) -> Cost:
    """Time one method at CIFAR-100's sizes: batches of 64, fp32, one thread, CPU time.

    The student's step and the method's share of it alternate, so that a busy machine slows both. The
    method's share begins at the student's outputs and ends at their gradients and its own optimizer, all terms
    but the cross-entropy counted; further views of the images add what they cost the student. Teacher and
    pre-training stage are left out.

    Raises:
        ValueError: no such method, pair or model; the method refuses the pair; n is below 1.
    """
    import torch

    from kdbench.utils import environment

    if n < 1:
        raise ValueError(f"a cost is the median of 1 or more measurements, not of {n}")
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        steps = prepare(method, pair)
        spent: dict[str, list[float]] = {"plain": [], "extra": [], "views": []}
        for turn in range(n + 2):  # the first two make memory and momentum
            for name, seconds in spent.items():
                step = getattr(steps, name)
                if step is None:
                    continue
                start = time.process_time()
                step()
                if turn > 1:
                    seconds.append(1000 * (time.process_time() - start))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)
    plain, extra = median(spent["plain"]), median(spent["extra"])
    if spent["views"]:
        extra += median(spent["views"]) - plain
    return Cost(
        method=method,
        pair=pair,
        student_step_ms=round(plain, 1),
        extra_ms=round(extra, 2),
        share=round(extra / plain, 4),
        extra_train_params=steps.train_params,
        extra_infer_params=steps.infer_params,
        n=n,
        cpu=environment.cpu_name(),
        torch=torch.__version__,
        threads=1,
        commit=environment.code().get("git", ""),
    )


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


def prepare(method: str, pair: str) -> Steps:
    """Build both models and the method with the values of convention semckd; make what is timed.

    Raises:
        ValueError: see ``measure``.
    """
    import torch
    import torch.nn.functional as F

    from kdbench import models, registry, suites
    from kdbench.distiller import Batch
    from kdbench.engine.lane import Lane
    from kdbench.engine.precision import Precision
    from kdbench.engine.schedule import Plan
    from kdbench.run import assistants

    teacher_name, _, student_name = pair.partition(":")
    _, teacher_name = assistants.network(method, student_name) or ("", teacher_name)
    student, teacher = (models.create(name, CLASSES) for name in (student_name, teacher_name))
    settle(teacher)
    labels = torch.arange(N_TRAIN) % CLASSES
    facts = models.make_pair(
        student, teacher, image_shape=(3, SIDE, SIDE), num_classes=CLASSES, train_labels=labels, batch_size=BATCH
    )
    cls = registry.get(method)
    hyper = suites.convention("semckd").hyper(method, pair, cls.hyperparameters())
    built = cls.build(facts, **hyper)
    plan = Plan(240, 0.05)
    lane = Lane(
        method,
        student,
        built,
        plan,
        seed=0,
        path=Path(),
        settings="",
        teacher="",
        device=torch.device("cpu"),
        precision=Precision(),
    )
    lane.enter("train")

    every = torch.randn((1 + len(built.views)) * BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    image = every[:BATCH]
    idx = torch.randperm(N_TRAIN)[:BATCH]
    batch = Batch(every, labels[idx], idx, torch.tensor(0.5))
    params = (lane.extra_train_params(), lane.extra_infer_params(image))

    own = [p for p in built.parameters() if p.requires_grad]
    optimizer = plan.optimizer(student.parameters(), lane.device)
    own_optimizer = plan.optimizer(own, lane.device) if own else None
    # A rate of 0 is the same arithmetic and keeps every repetition at the same, finite point.
    for group in [*optimizer.param_groups, *(own_optimizer.param_groups if own_optimizer else [])]:
        group["lr"] = 0.0
    built.ce_weight = 0.0
    with torch.no_grad():
        shown = models.fold(teacher)(every)
    seen = leaves(student(every))

    def whole(images: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = student(images).logits
        F.cross_entropy(logits, batch.label.repeat(len(logits) // BATCH)).backward()
        optimizer.step()

    def extra() -> None:
        terms = built.loss(seen, shown, batch)
        if not terms:
            return
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        if own_optimizer:
            own_optimizer.step()
            own_optimizer.zero_grad(set_to_none=True)
        for leaf in seen.tensors().values():
            leaf.grad = None

    return Steps(lambda: whole(image), extra, (lambda: whole(every)) if built.views else None, *params)


def main(words: list[str]) -> int:
    """Measure the methods named, or all, and save each at once; a refusal is printed and has no row."""
    from kdbench import registry

    names = [str(spec.name) for word in words for spec in registry.parse(word)] or registry.names()
    costs = load() if TABLE.exists() else {}
    costs = {name: cost for name, cost in costs.items() if name in registry.names()}
    for name in names:
        try:
            costs[name] = measure(name)
        except ValueError as error:
            costs.pop(name, None)
            print(f"{name}: {error}", flush=True)
            continue
        cost = costs[name]
        print(f"{name}: {cost.extra_ms:.2f} ms beside {cost.student_step_ms:.1f} ms, {cost.share:.1%}", flush=True)
        save(costs.values())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
