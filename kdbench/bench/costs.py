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
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING, cast

from kdbench.bench.prepared import CLASSES, N_TRAIN, SIDE, a_lane, prepare, whole_step
from kdbench.suites.costs import BATCH, Cost, load, save

if TYPE_CHECKING:
    import torch

    from kdbench.engine.lane import Lane

PAIR = "resnet32x4:resnet8x4"
FEWEST = 10  # timings of a forward pass: they are short


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
