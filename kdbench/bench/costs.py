"""What a method costs beside its student: measured, kept in suites/cost.csv, shown by `kdbench info` and reports.

    python -m kdbench.bench.costs                   measure every method anew and rewrite the table (`make costs`)
    python -m kdbench.bench.costs crd,nst           these alone; the other rows stay, and are not compared with these
    python -m kdbench.bench.costs --repeat 3        medians of 3 timings, not of 7
    python -m kdbench.bench.costs --device cuda     on a GPU

A method's loss should cost at most a quarter of its student's step. Those that cannot are in ``EXPENSIVE``,
each with its reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

from kdbench.suites.costs import BATCH, Cost, load, save

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdbench.distiller import Distiller, Outputs
    from kdbench.engine.lane import Lane
    from kdbench.models import Tapped

PAIR = "resnet32x4:resnet8x4"
N_TRAIN, CLASSES, SIDE = 50_000, 100, 32  # CIFAR-100
FEWEST = 10  # timings of a forward pass: they are short


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


@dataclass(frozen=True)
class Alone:
    """What a student takes without any method."""

    memory: int  # bytes: what it keeps, and its step at the highest
    standing: int  # bytes of these that it keeps
    macs: int  # of a forward pass of one image
    latency: tuple[float, float]  # milliseconds of the evaluated student, batches of 1 and ``BATCH``


def measure(
    method: str, pair: str = PAIR, *, n: int = 7, device: str = "cpu", measured: str = "", batch: int = BATCH
) -> Cost:
    """Measure one method at CIFAR-100's sizes: fp32, one thread. ``Cost`` says what each number is.

    The student's step and the method's share of it alternate, so that a busy machine slows both. The
    method's share begins at the student's outputs and ends at their gradients and its own optimizer, all terms
    but the cross-entropy counted; further views of the images add what they cost the student. Teacher and
    pre-training stage are left out.

    Args:
        method: its name.
        pair: ``teacher:student``.
        n: times of which the median is taken.
        device: of torch.
        measured: when the measurements began among which this is one; empty: now.
        batch: images of a batch.

    Raises:
        ValueError: no such method, pair or model; the method refuses the pair; n is below 1.
    """
    import torch

    from kdbench.bench import flops, held
    from kdbench.bench.clock import timed
    from kdbench.utils import environment
    from kdbench.utils.memory import keep_freed

    if n < 1:
        raise ValueError(f"a cost is the median of 1 or more measurements, not of {n}")
    threads, rng, where = torch.get_num_threads(), torch.get_rng_state(), torch.device(device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if where.type == "cpu":
        keep_freed()  # as in a run
    try:
        steps = prepare(method, pair, where, batch)
        lane = steps.lane
        alone = of_student(pair.partition(":")[2], device, batch, n)
        steps.whole()  # makes the momenta
        lane.optimizer.zero_grad(set_to_none=True)
        step, standing = held.highest(steps.whole, where), held.standing(lane)
        lane.optimizer.zero_grad(set_to_none=True)
        lane.optimizer.state.clear()
        macs = flops.count(steps.forward) / 2 / batch + len(lane.method.views) * alone.macs
        changed = lane.method.modifies_student()
        latencies = latency(lane, n, batch) if changed else alone.latency
        lane.method.ce_weight = 0.0  # from here on: the student's own step has it
        spent: dict[str, list[float]] = {"plain": [], "extra": [], "views": []}
        for turn in range(n + 1):  # the first makes momenta
            for name, seconds in spent.items():
                if (work := getattr(steps, name)) is not None and (span := timed(work, where)) and turn:
                    seconds.append(1000 * span.cost)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)
    plain, extra = median(spent["plain"]), median(spent["extra"])
    if spent["views"]:
        extra += median(spent["views"]) - plain
    told = environment.describe(device)
    return Cost(
        method=method,
        pair=pair,
        batch=batch,
        px=SIDE,
        train_images=N_TRAIN,
        classes=CLASSES,
        precision="fp32",
        device=where.type,
        processor=told.get("gpu") or f"{told['cpu']} ({told['instructions']})",
        threads=1,
        torch=torch.__version__,
        kdbench=environment.code()["kdbench"],
        commit=environment.code().get("git", ""),
        measured=measured or now(),
        n=n,
        student_step_ms=round(plain, 1),
        extra_ms=round(extra, 2),
        share=round(extra / plain, 4),
        student_memory_mb=round(alone.memory / 1e6, 3),
        extra_memory_mb=round((standing + step - alone.memory) / 1e6, 3),
        extra_standing_mb=round((standing - alone.standing) / 1e6, 3),
        extra_train_params=steps.train_params,
        extra_infer_params=steps.infer_params,
        student_macs=alone.macs,
        extra_macs=round(macs),
        latency_1_ms=round(latencies[0], 2),
        latency_batch_ms=round(latencies[1], 2),
    )


def now() -> str:
    """The moment, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


@lru_cache(maxsize=8)
def of_student(name: str, device: str, batch: int, n: int) -> Alone:
    """Measured once for all methods: no noise between rows that share the evaluated network."""
    import torch

    from kdbench import models
    from kdbench.bench import flops, held
    from kdbench.distiller import Distiller

    student, where = models.create(name, CLASSES), torch.device(device)
    labels = torch.arange(batch) % CLASSES
    facts = models.make_pair(
        student, student, image_shape=(3, SIDE, SIDE), num_classes=CLASSES, train_labels=labels, batch_size=batch
    )
    lane = a_lane("student", student, Distiller(facts), where)
    image = torch.randn(batch, 3, SIDE, SIDE).to(where, memory_format=torch.channels_last)
    step = whole_step(lane, None, image, labels, labels)
    step()
    lane.optimizer.zero_grad(set_to_none=True)
    highest, standing = held.highest(step, where), held.standing(lane)
    macs = flops.count(lambda: lane.student(image)) // 2 // batch
    return Alone(highest + standing, standing, macs, latency(lane, n, batch))


def latency(lane: Lane, n: int, batch: int) -> tuple[float, float]:
    """Milliseconds of the evaluated network on batches of 1 and of ``batch``, medians of at least ``FEWEST``."""
    import torch

    from kdbench import models
    from kdbench.bench.clock import timed
    from kdbench.engine import evaluate

    found = []
    with evaluate.in_eval_mode(lane):
        net = models.fold(cast(models.Tapped, lane.student))
        for size in (1, batch):
            image = torch.randn(size, 3, SIDE, SIDE).to(lane.device, memory_format=torch.channels_last)

            def answer(image: torch.Tensor = image) -> None:
                evaluate.answer(lane, net, image)

            answer()
            found.append(1000 * median(timed(answer, lane.device).cost for _ in range(max(n, FEWEST))))
    return found[0], found[1]


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


def prepare(method: str, pair: str, device: torch.device | None = None, size: int = BATCH) -> Steps:
    """Build both models and the method with the values of convention semckd; make what is measured.

    Args:
        method: its name.
        pair: ``teacher:student``.
        device: None: the CPU.
        size: images of a batch.

    Raises:
        ValueError: see ``measure``.

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
    built = cls.build(facts, **hyper)
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


def main(words: list[str]) -> int:
    """Measure the methods named, or all, and save each at once; a refusal is printed and has no row."""
    from kdbench import registry

    parser = argparse.ArgumentParser("python -m kdbench.bench.costs", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("methods", nargs="*", help="a,b or globs; none: all, and the table begins anew")
    parser.add_argument("--repeat", type=int, default=7, help="timings of which the median is taken")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(words)
    names = [str(spec.name) for word in asked.methods for spec in registry.parse(word)]
    costs = {name: cost for name, cost in load().items() if name in registry.names()} if names else {}
    began = now()
    for name in names or registry.names():
        try:
            cost = costs[name] = measure(name, n=asked.repeat, device=asked.device, measured=began)
        except ValueError as error:
            costs.pop(name, None)
            print(f"{name}: {error}", flush=True)
            continue
        print(
            f"{name}: {cost.extra_ms:.2f} ms beside {cost.student_step_ms:.1f} ms, {cost.share:.1%};"
            f" {cost.extra_memory_mb:.1f} MB beside {cost.student_memory_mb:.1f} MB; {cost.extra_macs:,} MACs beside"
            f" {cost.student_macs:,}",
            flush=True,
        )
        save(costs.values())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
