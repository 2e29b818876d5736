"""How long a grid may take: its parts as this machine's speeds have them, corrected by what runs took before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from kdbench import record, registry
from kdbench.data import held_out_count, trained_count
from kdbench.engine.precision import Precision
from kdbench.record import Record
from kdbench.run import amounts, assistants, grid, speeds
from kdbench.run.clock import Clock
from kdbench.run.devices import AUTO
from kdbench.run.grid import Cell, files
from kdbench.run.lanes import epochs, plan
from kdbench.run.session import Job
from kdbench.run.sooner import sooner
from kdbench.run.stopwatch import BUDGET, Item, Stopwatch
from kdbench.suites import costs
from kdbench.suites.published_teachers import hint
from kdbench.utils.wording import count

#: Seconds that a dry run may take from the start of its process, and those that are measured in at least.
PATIENCE, LEAST = 4.0, 0.4
#: A run that takes less (seconds) is not worth timing its methods.
SHORT = 20.0
#: Seconds of what an epoch of a lane needs beside steps and evaluation: its checkpoint, the guard's look at everything.
UPKEEP = 0.03
#: Evaluations of a teacher that is trained: the last five epochs, and once more as it is stored.
TEACHER_LOOKS = 6
#: Seconds that a worker is taken to need at most until it has loaded torch, kdbench and the methods.
LOADING = 10.0
#: Of a job whose workers share GPUs. What they cost each other was seen once: twelve on an H200 (docs/speed.md).
SHARED = (
    "not counted: what workers on one GPU take from each other; twelve of them once took twice as long as estimated"
)


class Part(NamedTuple):
    """Seconds of one kind of work."""

    kind: str  # of KINDS
    pair: str  # ``teacher:student``, the student alone, or the teacher that is trained
    method: str  # as tables show it; empty where it is nobody's own
    seconds: float


KINDS = ("teachers to be trained", "teachers' passes", "students", "methods", "evaluation", "checkpoints")


@dataclass(frozen=True)
class Estimate:
    """The parts as they were measured, and what runs before say of such measurements.

    >>> made = Estimate(1, (Part("students", "resnet20:resnet8", "kd", 60.0),), "cpu", factor=1.5, busy=2.0)
    >>> made.measured, made.work, made.seconds
    (60.0, 90.0, 180.0)
    """

    cells: int
    parts: tuple[Part, ...]
    device: str
    factor: float = 1.0  # seconds that runs worked, over the sum of their parts
    busy: float = 1.0  # seconds on the wall for one of work: others use the machine, too
    basis: str = ""  # where the factor comes from; empty: nothing was run here yet
    ahead: tuple[str, ...] = ()  # sentences on what is trained or fetched first, and what is not counted
    workers: int = 1
    sooner: float = 1.0  # so many times sooner do they end than one would
    starting: float = 0.0  # seconds of work until they have begun
    loading: float = 0.0  # of work that all of them do until then

    @property
    def measured(self) -> float:
        """Seconds of all parts, uncorrected."""
        return sum(part.seconds for part in self.parts)

    @property
    def work(self) -> float:
        """Seconds of work, whoever else uses the machine."""
        return self.factor * self.measured

    @property
    def seconds(self) -> float:
        """Seconds of the whole on the wall."""
        return self.busy * (self.work / self.sooner + self.starting)

    @property
    def alone(self) -> float:
        """The same for one worker, which is this process."""
        return self.busy * self.work

    def by(self, key: Callable[[Part], str]) -> dict[str, float]:
        """Seconds of one worker for parts of equal keys, the most first; parts whose key is empty are left out."""
        found: dict[str, float] = {}
        for part in self.parts:
            if name := key(part):
                found[name] = found.get(name, 0.0) + self.factor * self.busy * part.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class Estimator:
    """Estimates grids of one suite on one machine; what was measured once is not measured again.

    Args:
        job: the grid; others of the same suite, device and precision may be asked about.
        look: whether the data are looked for.
        budget: seconds of measuring; None: what is left of ``PATIENCE``.
        generous: seconds more, where they are no more than a hundredth of the run to come.

    Raises:
        ValueError: a network cannot be built for the suite's images, or these are too large to try.

    >>> from kdbench.run.session import Request, resolve
    >>> words = {"suite": "digits", "seeds": "1", "epochs": 1, "limit_train": 64, "device": "cpu"}
    >>> job = resolve(Request("student", "resnet20:resnet8", **words))
    >>> made = Estimator(job).of(job, job.cells)
    >>> made.cells, "students" in made.by(lambda part: part.kind)
    (1, True)
    """

    def __init__(self, job: Job, *, look: bool = False, budget: float | None = None, generous: float = 0.0) -> None:
        self.job, self.generous = job, generous
        # A worker loads what this process has loaded by now; one that has long been running tells nothing of that.
        self.loading = min(time.process_time(), LOADING)
        self.precision = Precision(job.request.precision)
        self.speeds = speeds.load(speeds.Machine.of(job.device, self.precision.name))
        self.images = amounts.images(job, look=look)
        self.clock = Clock.of(job.device, self.speeds.machine.threads)
        self.busy = self.clock.busy()
        self.table = _costs()
        self.unknown: set[str] = set()  # methods whose own cost nobody has measured
        self.watch = Stopwatch(
            size=job.suite.image_size,
            classes=job.suite.num_classes,
            batch=job.suite.recipe.batch_size,
            train_images=self.images.train,
            device=torch.device(job.device),
            precision=self.precision,
            speeds=self.speeds,
            budget=_budget() if budget is None else budget,
        )

    def of(self, job: Job, todo: Sequence[Cell]) -> Estimate:
        """The estimate of a job's cells that are still to be trained."""
        helpers = assistants.missing(job.request.out, todo, retry_failed=job.request.retry_failed)
        cells = [*helpers, *todo]
        teachers = _teachers(job, cells)
        before = self.speeds.counts
        self.watch.measure(self._visits(job, cells, teachers))
        made = self._sum(job, cells, teachers)
        if made > SHORT:
            self.watch.left += min(self.generous, made / 100)
            self.watch.measure(self._visits(job, cells, teachers))
            self._time_methods(cells, made)
        if self.speeds.counts != before:
            self.speeds.keep()
        parts = tuple(self._parts(job, cells, teachers))
        factor, basis = self._factor(job)
        ahead = list(_first(teachers, helpers))
        where = job.suite.name if job.request.suite == AUTO else job.request.suite
        ahead += filter(None, (hint(name, job.suite.dataset, where) for name in teachers))
        if self.images.missing:
            ahead.append(self.images.missing)
        if self.unknown:
            ahead.append(f"not counted, because nobody has measured it: what {', '.join(sorted(self.unknown))} takes")
        if job.request.compile:
            ahead.append("not counted: compiling the students")
        alone = Estimate(len(todo), parts, job.device, factor, self.busy, basis, tuple(ahead))
        hands = job.hands.after(alone.alone, len(todo))
        trained = {part.pair: part.seconds for part in parts if part.kind == KINDS[0]}
        faster = sooner(cells, trained, partial(self._shared, job), hands.workers, hands.at_once)
        ahead += [SHARED] if hands.crowded else []
        loading = self.loading * hands.workers if cells and hands.workers > 1 else 0.0
        many = replace(alone, workers=hands.workers, sooner=faster, ahead=tuple(ahead))
        return replace(many, loading=loading, starting=loading / hands.at_once)

    def _visits(self, job: Job, cells: Sequence[Cell], teachers: dict[str, int]) -> dict[Item, float]:
        """Every network that is asked, and how many images it sees, roughly."""
        found: dict[Item, float] = {}

        def sees(name: str, learns: bool, images: float) -> None:
            item = Item(name, learns)
            found[item] = found.get(item, 0.0) + images

        for name, length in teachers.items():
            sees(name, True, length * self.images.train)
            sees(name, False, TEACHER_LOOKS * self.images.test)
        for group in grid.groups(cells):
            first = group[0]
            if tutor := first.assistant.student if first.assistant else first.teacher:
                sees(tutor, False, first.epochs * self.images.train)
            for cell in group:
                sees(cell.student, True, cell.epochs * self.images.train)
                sees(cell.student, False, cell.epochs * self.images.test)
        return found

    def _sum(self, job: Job, cells: Sequence[Cell], teachers: dict[str, int]) -> float:
        return sum(part.seconds for part in self._parts(job, cells, teachers))

    def _time_methods(self, cells: Iterable[Cell], whole: float) -> None:
        """Time steps with the methods that take some of ``whole`` seconds, the dearest first."""
        images, extra = Counter[Item](), dict[Item, float]()
        for cell in cells:
            for part in registry.get(cell.method).components():
                name = registry.name_of(part)
                # Strangers' code is not run for an estimate; what views cost the student, the table has.
                if not registry.source_sha256(name) and not part.views:
                    item = Item(cell.student, True, name, cell.teacher)
                    images[item] += cell.epochs * self.images.train
                    extra[item] = self._extra_of(name, cell)
        takes = {item: extra[item] * images[item] for item in extra if self.watch.known(item) is None}
        dear = sorted((item for item in takes if takes[item] > whole / 300), key=lambda item: -takes[item])
        self.watch.measure_methods({item: extra[item] for item in dear})

    def _parts(self, job: Job, cells: Sequence[Cell], teachers: dict[str, int]) -> Iterable[Part]:
        images, recipe = self.images, job.suite.teacher
        for name, length in teachers.items():
            steps = -(-images.train // recipe.batch_size) * recipe.batch_size
            seconds = length * steps * self._learns(name) + TEACHER_LOOKS * images.test * self._looks(name)
            yield Part(KINDS[0], name, "", seconds)
        kept: dict[str, float] = {}
        for group in grid.groups(cells):
            yield from self._group(job, group, kept)

    def _shared(self, job: Job, cells: Sequence[Cell]) -> tuple[float, float]:
        """Seconds of cells that share a teacher pass: of that, and of all else."""
        parts = list(self._group(job, cells, {}))
        shared = sum(part.seconds for part in parts if part.kind == KINDS[1])
        return shared, sum(part.seconds for part in parts) - shared

    def _group(self, job: Job, group: Sequence[Cell], kept: dict[str, float]) -> Iterable[Part]:
        first = group[0]
        held_out = held_out_count(self.images.train, first.recipe.get("validation", 0.0))
        trained = trained_count(self.images.train, first.recipe)
        seen = self.images.test + held_out
        views = 1 + len(registry.get(first.method).views)
        tutor = first.assistant.student if first.assistant else first.teacher
        pair = f"{tutor}:{first.student}" if first.assistant else first.pair
        if tutor:
            times = -(-len(group) // (job.request.lanes or len(group)))
            most = max(epochs(cell) * amounts.share_left(job.request.out, cell) for cell in group)
            asked = _asked(job, group, kept)
            share = times * self._looks(tutor) * (asked * most * trained * views + self.images.test) / len(group)
        for cell in group:
            method = registry.get(cell.method)
            pair, left = cell.pair, amounts.share_left(job.request.out, cell)
            before, length = (epochs(cell) - cell.epochs) * left, cell.epochs * left
            plain = self._learns(cell.student) * length
            plain += before * (self._learns if method.pretrain_student else self._looks)(cell.student)
            back = max(0.0, self._learns(cell.student) - self._looks(cell.student))
            plain += (amounts.passes(cell) - 1) * back * length
            if tutor:
                yield Part(KINDS[1], pair, "", share)
            yield Part(KINDS[2], pair, "", trained * plain)
            yield Part(KINDS[3], pair, cell.label, trained * self._extra(cell) * (length + before))
            looks = sum(map(plan(cell.epochs, cell.recipe).evaluates, range(cell.epochs))) * left
            yield Part(KINDS[4], pair, "", looks * seen * self._looks(cell.student))
            yield Part(KINDS[5], pair, "", UPKEEP * (length + before))

    def _learns(self, name: str) -> float:
        return self.watch.seconds(Item(name, True))

    def _looks(self, name: str) -> float:
        return self.watch.seconds(Item(name))

    def _extra(self, cell: Cell) -> float:
        """Seconds that a method takes for an image beside its student; a combination takes what its parts do."""
        parts = registry.get(cell.method).components()
        return sum(self._extra_of(registry.name_of(part), cell) for part in parts)

    def _extra_of(self, name: str, cell: Cell) -> float:
        """What a method takes beside a cell's student: as timed, else its share of the student's step by the table."""
        if (timed := self.watch.known(Item(cell.student, True, name, cell.teacher))) is not None:
            return timed
        if name not in self.table:
            self.unknown.add(name)
        return max(0.0, self.table.get(name, 0.0)) * self._learns(cell.student)

    def _factor(self, job: Job) -> tuple[float, str]:
        """How much longer runs took than the sum of their parts, and whose word that is.

        Runs of the suite that this machine has kept, else the records of the output folder, else any run of this
        machine.
        """
        own = [one for one in self.speeds.runs if one.suite == job.suite.name]
        if own:
            factor, runs = self.speeds.factor(job.suite.name)
            return factor, f"corrected by {count(runs, 'run')} of {job.suite.name} on this machine"
        if ratios := self._from_records(job):
            return median(ratios), f"corrected by {count(len(ratios), 'group')} of records of this machine"
        factor, runs = self.speeds.factor(job.suite.name)
        return factor, f"corrected by {count(runs, 'run')} of other suites on this machine" if runs else ""

    def _from_records(self, job: Job) -> list[float]:
        """Seconds that groups took whose records lie in the output folder, over the sum of their parts."""
        found: dict[tuple[object, ...], list[Record]] = {}
        for folder in sorted({files(job.request.out, cell).record.parent for cell in job.cells}):
            for one in record.read_all(folder)[0] if folder.is_dir() else []:
                if one.status == "done" and one.group_seconds and self._ours(one):
                    key = (one.teacher, one.seed, one.group_seconds, one.group_lanes)
                    found.setdefault(key, []).append(one)
        ratios = []
        for group in found.values():
            if len(group) != group[0].group_lanes or not group[0].group_seconds:
                continue  # some lie elsewhere, or were trained anew since
            cells = [Cell.of(one) for one in group]
            names = {name for cell in cells for name in (cell.teacher, cell.student) if name}
            if any(self.watch.known(Item(name, learns)) is None for name in names for learns in (False, True)):
                continue
            limited = replace(job, request=replace(job.request, lanes=None))
            try:
                parts = sum(part.seconds for part in self._group(limited, cells, {}) if part.kind in KINDS[1:4])
            except ValueError:  # of a method or a network that is not loaded now
                continue
            parts *= self.busy  # a record has the time on the wall; nobody knows how busy the machine was then
            if parts > 0 and 1 / speeds.FARTHEST <= group[0].group_seconds / parts <= speeds.FARTHEST:
                ratios.append(group[0].group_seconds / parts)
        return ratios

    def _ours(self, one: Record) -> bool:
        """Whether a record was made on such a machine, with as many images."""
        here, there = self.speeds.machine, one.environment
        made_on = there.get("gpu") or f"{there.get('cpu')} ({there.get('instructions')})"
        return (
            (made_on, there.get("torch"), one.settings.precision) == (here.processor, here.torch, here.precision)
            and there.get("threads") == here.threads
            and one.settings.limit_train == self.job.request.limit_train
            and one.settings.assistant is None
        )


def _costs() -> dict[str, float]:
    try:
        return {name: one.share for name, one in costs.load().items()}
    except ValueError:
        return {}


def _budget() -> float:
    """Seconds of measuring that a person at a terminal waits for; loading torch and timm counts in."""
    return max(LEAST, min(BUDGET, PATIENCE - time.process_time()))


def _first(teachers: Iterable[str], helpers: Sequence[Cell]) -> Iterable[str]:
    names = list(teachers)
    if names:
        yield f"trained first, and counted in: teacher{'s' * (len(names) > 1)} {', '.join(names)}"
    if helpers:
        networks = dict.fromkeys(f"{cell.student} of {cell.teacher}" for cell in helpers)
        yield f"trained first, and counted in: {count(len(helpers), 'teacher assistant')}, {', '.join(networks)}"


def _teachers(job: Job, todo: Sequence[Cell]) -> dict[str, int]:
    """Teachers that are not stored yet, and the epochs of their training."""
    from kdbench.run import teachers as teaching

    found = {}
    for name in dict.fromkeys(cell.teacher for cell in todo if cell.teacher):
        wanted = teaching.recipe(job.suite, name, job.request.epochs, job.request.limit_train)
        if teaching.there(job.request.teachers, job.suite, name, wanted) is None:
            found[name] = int(wanted["epochs"])
    return found


def _asked(job: Job, group: Sequence[Cell], kept: dict[str, float]) -> float:
    """Share of a group's batches that the teacher itself is asked about, the others lie in its table.

    ``kept``: by teacher, the share of all entries that its table has by then; moved on.
    """
    from kdbench.distiller import READS
    from kdbench.engine.teacher_cache.place import count_views
    from kdbench.run import teacher_cache as tables

    first, recipe = group[0], group[0].recipe
    methods = [registry.get(cell.method) for cell in group]
    reads = [method.reads for method in methods if method.needs_teacher]
    if not reads:
        return 0.0
    drawn = any(recipe.get(name) for name in ("augment", "mixup", "cutmix", "random_erasing"))
    if job.request.table == "off" or first.assistant or methods[0].views or "maps" in reads or drawn:
        return 1.0
    views = count_views(recipe["crop_padding"], recipe["flip"])
    if first.teacher not in kept:
        widest = max(reads, key=READS.index)
        there = tables.kept_share(
            job.request.home or job.request.out,
            job.suite.dataset,
            first.teacher,
            job.request.precision,
            recipe["batch_size"],
            widest,
        )
        seeds = {cell.seed for cell in job.cells if cell.teacher == first.teacher}
        if there is None and first.epochs * len(seeds) <= views / 2:
            return 1.0  # no table is begun
        kept[first.teacher] = there or 0.0
    before = kept[first.teacher]
    # Every epoch draws one view of each image; what is not there yet is drawn less and less often.
    kept[first.teacher] = 1 - (1 - before) * (1 - 1 / views) ** first.epochs
    return (kept[first.teacher] - before) * views / first.epochs
