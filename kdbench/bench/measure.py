"""All measurements of `kdbench bench`, in the order in which they are made."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from kdbench import environment, record, registry
from kdbench.bench import flops
from kdbench.bench.clock import Span, alternate, forget_peak, peak_mb, timed
from kdbench.bench.engine_side import Engine
from kdbench.bench.reference import Reference, batches
from kdbench.bench.result import Compared, LaneFit, Overhead, PairResult, Ratio, Result, Side
from kdbench.bench.work import Work, pixels
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.record import Point, Record
from kdbench.session import choose_device, choose_pairs
from kdbench.suites import load as load_suite

#: Seconds that the alternations of one pair may take when --steps does not say.
BUDGET = 60.0
MOST_STEPS = 200
LANES = (1, 4, 8, 12)
#: Length of the run over which its one record is spread.
EPOCHS = 240

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """The words of the command line. ``images``, ``side`` and ``num_classes`` are CIFAR-100's."""

    pairs: tuple[str, ...] = ("resnet56:resnet20",)
    methods: str = "kd,fitnet,at,sp,vid,crd"
    device: str = "auto"
    precision: str = "exact"
    repeat: int = 5
    steps: int | None = None
    lanes_fit: bool = False
    data_dir: Path | None = None
    batch_size: int = 64
    images: int = 50_000
    side: int = 32
    num_classes: int = 100


def check(request: Request) -> list[Work]:
    """Every word looked at, before anything is timed; one piece of work per pair.

    Raises:
        ValueError: one sentence about the word that will not do.
    """
    if request.repeat < 1:
        raise ValueError(f"--repeat takes a number of alternations of 1 or more, not {request.repeat}")
    if request.steps is not None and request.steps < 1:
        raise ValueError(f"--steps takes 1 or more, not {request.steps}")
    suite = load_suite("semckd")
    specs = tuple(registry.parse(request.methods))
    pairs = list(dict.fromkeys(pair for word in request.pairs for pair in choose_pairs(word, suite)))
    device = torch.device(choose_device(request.device))
    precision = Precision(request.precision)
    precision.check(device)
    shown = pixels(request.data_dir, n=request.images, side=request.side, num_classes=request.num_classes)
    return [Work(t, s, specs, shown, request.batch_size, device, precision) for t, s in pairs]


def bench(request: Request, say: Say = lambda sentence: None) -> Result:
    """Measure everything. One thread on the CPU, where time is CPU time.

    Raises:
        ValueError: see ``check``; or a method cannot serve a pair.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = torch.get_rng_state()
    try:
        works = check(request)
        for work in works:
            work.check()
        first = works[0]
        if slow := first.precision.warning(first.device):
            say(slow)
        say("the machine's peak")
        half = torch.bfloat16 if first.device.type == "cpu" else torch.float16
        peaks = {str(d).removeprefix("torch."): flops.peak_gflops(first.device, d) for d in (torch.float32, half)}
        peak = peaks["float32"] if request.precision == "exact" else max(peaks.values())
        copy = flops.peak_copy(first.device)
        say("input pipeline")
        pipeline = _pipeline(first, request)
        pairs = []
        for work in works:
            with TemporaryDirectory(prefix="kdbench-bench-") as folder:
                pair = _pair(work, request, peak, say, Path(folder))
            if request.lanes_fit:
                gc.collect()
                say(f"{pair.pair}: cost against the number of lanes")
                pair = pair.model_copy(update={"lane_fit": _lane_fit(work, pair.steps, min(request.repeat, 3))})
            pairs.append(pair)
        return Result(
            precision=request.precision, device=str(first.device), repeat=request.repeat,
            images=first.pixels.source, num_images=len(first.pixels.labels), peak_gflops=peaks, peak_copy_gbs=copy,
            pipeline=pipeline, pairs=pairs, code=environment.code(),
            environment=environment.describe(str(first.device)),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)


def _pair(work: Work, request: Request, peak: float, say: Say, folder: Path) -> PairResult:
    name = f"{work.teacher_name}:{work.student_name}"
    say(f"{name}: warming up")
    engine, reference = Engine(work, folder), Reference(work)
    # The first steps of both pay for memory and for kernels that are made on first use.
    warm = 3 if work.device.type == "cuda" else 1
    engine.run(warm)
    reference.run(warm)
    steps = request.steps
    if steps is None:
        one = timed(lambda: engine.run(1), work.device).cost + timed(lambda: reference.run(1), work.device).cost
        steps = max(1, min(MOST_STEPS, int(BUDGET / request.repeat / one)))
    memory = {side: _memory(lambda run=run: run(1), work.device)  # type: ignore[misc]
              for side, run in (("engine", engine.run), ("reference", reference.run))}
    say(f"{name}: {request.repeat} alternations of {steps} steps")
    spans = alternate(lambda: reference.run(steps), lambda: engine.run(steps), request.repeat, work.device)
    per_run = steps * work.batch_size * len(work.specs)
    compared = _compare(spans, per_run, memory)
    say(f"{name}: parts of a step")
    split = engine.split(max(1, min(steps, 20)))
    work_done = flops.count(lambda: engine.run(1))
    gflops = work_done * steps / median(engine_span.cost for _, engine_span in spans) / 1e9
    overhead = _overhead(engine, median(span.cost for _, span in spans) / steps)
    return PairResult(
        pair=name, methods=[str(spec) for spec in work.specs], steps=steps, batch_size=work.batch_size,
        compared=compared, split=split, step_gflop=work_done / 1e9, gflops=gflops, share_of_peak=gflops / peak,
        overhead=overhead,
    )


def _memory(work: Callable[[], object], device: torch.device) -> float | None:
    if not forget_peak(device):
        return None
    work()
    return peak_mb(device)


def _compare(
    spans: Sequence[tuple[Span, Span]], images: int, memory: dict[str, float | None] | None = None
) -> Compared:
    """``spans`` of (reference, engine), each over ``images``."""
    sides = []
    for name, own in zip(("reference", "engine"), zip(*spans, strict=True), strict=True):
        device = None if own[0].device is None else [span.device or 0.0 for span in own]
        sides.append(Side(
            cpu=[span.cpu for span in own], system=[span.system for span in own], wall=[span.wall for span in own],
            device=device,
            images_per_second=images / median(span.cost for span in own), peak_mb=(memory or {}).get(name),
        ))
    return Compared(reference=sides[0], engine=sides[1], ratio=Ratio.of([a.cost / b.cost for a, b in spans]))


def _pipeline(work: Work, request: Request) -> Compared:
    """Batches alone, up to the device, by both sides."""
    ours, theirs = work.batches(), batches(work.pixels, work.batch_size)
    number = 2 if request.steps == 1 else 20

    def plain() -> None:
        for image, label, _ in islice(theirs, number):
            image.to(work.device), label.to(work.device)

    def resident() -> None:
        for _ in islice(ours, number):
            pass

    plain()
    resident()
    return _compare(alternate(plain, resident, request.repeat, work.device), number * work.batch_size)


def _overhead(engine: Engine, step: float) -> Overhead:
    """Seconds for meters, checkpoints and records; ``step`` is what a step of all lanes costs."""
    work, device = engine.work, engine.work.device
    epoch_steps = max(1, len(work.pixels.labels) // work.batch_size)
    few = 3
    for lane in engine.lanes:
        lane.start_epoch()
    for _ in range(few):
        batch = engine.batch()
        seen = engine.look(batch)
        for lane in engine.lanes:
            lane.step(seen, batch)
    # Closing an epoch reads every step's terms: it grows with the steps.

    def each(work: Callable[[Lane], object]) -> Span:
        return timed(lambda: [work(lane) for lane in engine.lanes], device)

    meters = each(lambda lane: Lane.end_epoch(lane, 0.0)).cost * epoch_steps / few
    checkpoints = each(Lane.save).wall  # waits for the disk, too
    made = _record()
    records = each(lambda lane: record.write(made, lane.path.with_suffix(".json"))).wall
    beside = EPOCHS * (meters + checkpoints) + records
    return Overhead(
        epoch_meters=meters, epoch_checkpoints=checkpoints, run_records=records, epochs=EPOCHS,
        epoch_steps=epoch_steps, share=beside / (beside + EPOCHS * epoch_steps * step),
    )


def _record() -> Record:
    """A record of the usual size."""
    curve = [Point(epoch=n + 1, lr=0.05, seconds=n * 10.0, terms={"ce": 1 / 3, "term": 1 / 7}, top1=100 / 3)
             for n in range(EPOCHS)]
    return Record(
        status="done", suite="bench", dataset="bench", convention="bench", teacher="t", student="s", method="m", seed=0,
        epochs=EPOCHS, quick=True, settings={}, settings_hash="", top1_last=50.0, top1_best_test=50.0, curve=curve,
        provenance="", modified_student=False, code={}, environment={}, finished=time.strftime("%Y-%m-%dT%H:%M:%S"),
    )


def _lane_fit(work: Work, steps: int, repeat: int) -> LaneFit:
    """Lanes of the first method, in numbers that take turns; and its parts alone."""
    spec = work.specs[0]
    engines = {n: Engine(replace(work, specs=tuple(islice(cycle([spec]), n)))) for n in LANES}
    alone = engines[1]
    lane = alone.lanes[0]
    batch = alone.batch()
    seen = alone.look(batch)
    lane.start_epoch()
    for engine in engines.values():
        engine.run(1)
    lane.start_epoch()
    seconds: dict[int, list[float]] = {n: [] for n in LANES}
    teacher, student = [], []

    def train_alone() -> None:
        for _ in range(steps):
            lane.step(seen, batch)

    for _ in range(repeat):
        teacher.append(timed(lambda: [alone.look(batch) for _ in range(steps)], work.device).cost / steps)
        student.append(timed(train_alone, work.device).cost / steps)
        for n, engine in engines.items():
            seconds[n].append(timed(lambda e=engine: e.run(steps), work.device).cost / steps)  # type: ignore[misc]
    cost = [median(seconds[n]) for n in LANES]
    slope, intercept = np.polyfit(LANES, cost, 1)
    left = np.square(np.polyval((slope, intercept), LANES) - cost).sum()
    r2 = 1 - left / np.square(np.array(cost) - np.mean(cost)).sum()
    whole, one = median(teacher), median(student)
    return LaneFit(
        method=str(spec), lanes=list(LANES), seconds=[seconds[n] for n in LANES], intercept=float(intercept),
        slope=float(slope), r2=float(r2), teacher_forward=whole, student_step=one,
        intercept_in_teachers=float(intercept) / whole, slope_in_steps=float(slope) / one,
    )
