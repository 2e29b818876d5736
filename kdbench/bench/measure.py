"""All measurements of `kdbench bench`, in the order in which they are made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from kdbench import registry
from kdbench.bench import flops, guarding, on_table, side_by_side
from kdbench.bench.clock import Span, alternate, forget_peak, peak_mb, timed
from kdbench.bench.engine_side import Engine
from kdbench.bench.overhead import overhead
from kdbench.bench.reference import Reference, batches
from kdbench.bench.result import Compared, LaneFit, OnTable, PairResult, Ratio, Result, Side
from kdbench.bench.work import Work, pixels
from kdbench.engine.graph.backend import machine_for
from kdbench.engine.precision import Precision
from kdbench.run.choices import choose_device, choose_pairs
from kdbench.suites import load as load_suite
from kdbench.utils import environment
from kdbench.utils.memory import keep_freed

#: Seconds that the alternations of one pair may take when --steps does not say.
BUDGET = 60.0
MOST_STEPS = 200
LANES = (1, 4, 8, 12)
#: The method that is timed on a ready table; it reads the teacher's logits.
ON_TABLE = "kd"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """The words of the command line. ``images``, ``side`` and ``num_classes`` are CIFAR-100's.

    >>> Request(pairs=("resnet20:resnet8",), methods="kd,crd", precision="amp").repeat
    5
    """

    pairs: tuple[str, ...] = ("resnet56:resnet20",)
    methods: str = "kd,fitnet,at,sp,vid,crd"
    device: str = "auto"
    precision: str = "fp32"
    repeat: int = 5
    steps: int | None = None
    lanes_fit: bool = False
    table: bool = True
    side_by_side: bool = False
    graphs: str = "auto"
    data_dir: Path | None = None
    file: Path | None = None  # where the result is saved
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
    whole = request.images // request.batch_size
    if request.steps is not None and not 1 <= request.steps <= whole:
        raise ValueError(f"--steps takes 1 to {whole}, the full batches of an epoch, not {request.steps}")
    if request.file is not None and not request.file.parent.is_dir():
        raise ValueError(f"there is no folder {request.file.parent} to write {request.file.name} to")
    if request.graphs not in ("auto", "off"):
        raise ValueError(f"--graphs takes auto or off, not {request.graphs!r}")
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

    >>> bench(Request(pairs=("resnet56:resnet20",), repeat=0))
    Traceback (most recent call last):
    ValueError: --repeat takes a number of alternations of 1 or more, not 0
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = torch.get_rng_state()
    try:
        works = check(request)
        for work in works:
            work.check()
        first = works[0]
        if first.device.type == "cpu":
            keep_freed()  # as the engine does in a run; the loop, in the same process, gains by it, too
        warning = first.precision.warning(first.device)
        if warning:
            say(warning)
        say("the machine's peak")
        peaks, peak = _peaks(first)
        copy = flops.peak_copy(first.device)
        say("input pipeline")
        pipeline = _pipeline(first, request)
        pairs = []
        for work in works:
            with TemporaryDirectory(prefix="kdbench-bench-") as folder:
                pair = _pair(work, request, peak, say, Path(folder))
                gc.collect()
                if request.table:
                    pair = _with_table(pair, work, request, say, Path(folder))
                    gc.collect()
            if request.lanes_fit:
                say(f"{pair.pair}: cost against the number of lanes")
                pair = pair.model_copy(update={"lane_fit": _lane_fit(work, request, pair.steps)})
                gc.collect()
            if request.side_by_side:
                say(f"{pair.pair}: students side by side")
                pair = pair.model_copy(update={"side_by_side": side_by_side.measure(work, min(request.repeat, 3))})
                gc.collect()
            pairs.append(pair)
        result = Result(
            precision=request.precision,
            device=str(first.device),
            repeat=request.repeat,
            images=first.pixels.source,
            num_images=len(first.pixels.labels),
            peak_gflops=peaks,
            peak_copy_gbs=copy,
            pipeline=pipeline,
            pairs=pairs,
            code=environment.code(),
            environment=environment.describe(str(first.device)),
            warning=warning,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if request.file is not None:
            request.file.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
            say(f"saved {request.file}")
        return result
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)


def _peaks(work: Work) -> tuple[dict[str, float], float]:
    """GFLOP/s of products by format, and the best of those that the precision may use."""
    device, name = work.device, work.precision.name
    half = torch.bfloat16 if device.type == "cpu" or name == "bf16" else torch.float16
    without = Precision("bf16").warning(device) and name == "fp32"  # slow, and not asked for
    Precision().prepare(device)
    kinds = (torch.float32,) if without else (torch.float32, half)
    peaks = {str(kind).removeprefix("torch."): flops.peak_gflops(device, kind) for kind in kinds}
    if name == "tf32":
        work.precision.prepare(device)
        peaks["tf32"] = flops.peak_gflops(device, torch.float32)
    if name == "fp32":
        return peaks, peaks["float32"]
    return peaks, peaks["tf32"] if name == "tf32" else max(peaks.values())


def _pair(work: Work, request: Request, peak: float, say: Say, folder: Path) -> PairResult:
    name = f"{work.teacher_name}:{work.student_name}"
    say(f"{name}: warming up")
    engine, reference = _engine(work, request, folder), Reference(work)
    # The first steps of both pay for memory and for kernels that are made on first use.
    for _ in range(3 if work.device.type == "cuda" else 1):
        engine.run(1)
        reference.run(1)
    steps = request.steps
    if steps is None:
        one = timed(lambda: engine.run(1), work.device).cost + timed(lambda: reference.run(1), work.device).cost
        steps = _fitting(work, request, one)
    memory = {
        side: _memory(lambda run=run: run(1), work.device)  # type: ignore[misc]
        for side, run in (("engine", engine.run_eager), ("reference", reference.run))
    }
    if engine.setting.machine is not None:
        engine.run(steps)  # another length, another graph
    say(f"{name}: {request.repeat} alternations of {steps} steps")
    spans = alternate(lambda: reference.run(steps), lambda: engine.run(steps), request.repeat, work.device)
    per_run = steps * work.batch_size * len(work.specs)
    compared, captured = _compare(spans, per_run, memory), engine.captured
    say(f"{name}: parts of a step")
    split = engine.split(max(1, min(steps, 20)))
    work_done = flops.count(lambda: engine.run_eager(1))
    gflops = work_done * steps / median(engine_span.cost for _, engine_span in spans) / 1e9
    beside = overhead(engine, median(span.cost for _, span in spans) / steps)
    return PairResult(
        pair=name,
        methods=[str(spec) for spec in work.specs],
        steps=steps,
        batch_size=work.batch_size,
        compared=compared,
        split=split,
        step_gflop=work_done / 1e9,
        gflops=gflops,
        share_of_peak=gflops / peak,
        overhead=beside,
        guard=guarding.measure(engine, median(engine_span.cpu for _, engine_span in spans) / steps),
        captured=captured,
        notes=engine.notes,
    )


def _engine(work: Work, request: Request, folder: Path = Path()) -> Engine:
    return Engine(work, folder, machine_for(work.device, request.graphs))


def _fitting(work: Work, request: Request, one: float) -> int:
    """Steps of an alternation, where a step of both sides takes ``one`` second(s)."""
    whole = len(work.pixels.labels) // work.batch_size
    return max(1, min(MOST_STEPS, whole, int(BUDGET / request.repeat / one)))


def _with_table(pair: PairResult, work: Work, request: Request, say: Say, folder: Path) -> PairResult:
    """One method alone: the reference asks its live teacher, the engine a table that was filled before."""
    say(f"{pair.pair}: {ON_TABLE} alone, a table of the teacher for it")
    work = replace(work, specs=tuple(registry.parse(ON_TABLE)))
    engine, reference = _engine(work, request, folder), Reference(work)
    reference.run(1)
    steps = request.steps or _fitting(work, request, 1.5 * timed(lambda: reference.run(1), work.device).cost)
    try:
        with on_table.taught(engine, steps, 1 + request.repeat, folder) as run:
            run()
            say(f"{pair.pair}: {request.repeat} alternations of {steps} steps on the table")
            spans = alternate(lambda: reference.run(steps), run, request.repeat, work.device)
    except on_table.NoTable as error:
        return pair.model_copy(update={"no_table": str(error)})
    found = OnTable(method=ON_TABLE, steps=steps, compared=_compare(spans, steps * work.batch_size))
    return pair.model_copy(update={"on_table": found, "notes": list(dict.fromkeys([*pair.notes, *engine.notes]))})


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
        sides.append(
            Side(
                cpu=[span.cpu for span in own],
                system=[span.system for span in own],
                wall=[span.wall for span in own],
                device=device,
                images_per_second=images / median(span.cost for span in own),
                peak_mb=(memory or {}).get(name),
            )
        )
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


def _lane_fit(work: Work, request: Request, steps: int) -> LaneFit:
    """Lanes of the first method, in numbers that take turns; and its parts alone, every kernel launched by itself."""
    spec = work.specs[0]
    engines = {n: _engine(replace(work, specs=tuple(islice(cycle([spec]), n))), request) for n in LANES}
    alone = engines[1]
    lane = alone.lanes[0]
    batch = alone.batch()
    seen = alone.look(batch)
    lane.start_epoch()
    for engine in engines.values():
        engine.run(1 if engine.setting.machine is None else steps)
    lane.start_epoch()
    seconds: dict[int, list[float]] = {n: [] for n in LANES}
    teacher, student = [], []

    def train_alone() -> None:
        for _ in range(steps):
            lane.step(seen, batch)

    for _ in range(min(request.repeat, 3)):
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
        method=str(spec),
        lanes=list(LANES),
        seconds=[seconds[n] for n in LANES],
        intercept=float(intercept),
        slope=float(slope),
        r2=float(r2),
        teacher_forward=whole,
        student_step=one,
        intercept_in_teachers=float(intercept) / whole,
        slope_in_steps=float(slope) / one,
    )
