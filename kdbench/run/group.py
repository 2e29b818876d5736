"""Cells that share a teacher pass, from facts to records: claimed, taught, built, trained side by side, written down.

``run_group`` is a function of facts that can be sent to another process, and returns records; while it works it
emits events. It never prints.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from kdbench import models, registry
from kdbench.data import Dataset, Loader, trained_on
from kdbench.data.loader import Plain
from kdbench.engine import fit as engine
from kdbench.engine.compiled import Compiler
from kdbench.engine.errors import OutOfMemory, holds, release
from kdbench.engine.graph.backend import machine_for
from kdbench.engine.graph.capture import give_back
from kdbench.engine.lane import Lane
from kdbench.engine.memory import CPU_SHARE
from kdbench.engine.precision import Precision
from kdbench.models import Tapped
from kdbench.models.teachers import TeacherCard
from kdbench.run import assistants, batches, grid, teacher_cache, teachers, tuned
from kdbench.run.claims import claimed
from kdbench.run.grid import Cell
from kdbench.run.held import holding
from kdbench.run.identity import in_the_way
from kdbench.run.lanes import Maker, behind, epochs, reach
from kdbench.run.ledger import Ledger
from kdbench.run.outcome import Done, Emit, GroupBegins, LanesBegin, Note, Skipped, Standing, Stop, Teller, one_line
from kdbench.run.promised import planning
from kdbench.run.pulse import group_alive
from kdbench.suites import Suite
from kdbench.utils import environment
from kdbench.utils.files import trouble
from kdbench.utils.seeding import stable_seed
from kdbench.utils.wording import count


@dataclass(frozen=True)
class Work:
    """All that a group's training depends on; plain facts, so that any process can do it."""

    suite: Suite
    cells: tuple[Cell, ...]  # of one teacher, seed and kind of batch, see ``grid.groups``
    out: Path
    device: str
    precision: str
    data_dir: Path | None = None
    data_source: str = "auto"
    data_workers: int | None = None
    epochs: int | None = None  # as asked for; the length of a short teacher follows from it
    limit_train: int | None = None
    lanes: int | None = None
    graphs: str = "auto"
    verify: bool = False  # see ``engine.graph.canary``
    table: str = "auto"  # the teacher's kept outputs
    compile: bool = False
    checkpoint_minutes: float | None = None  # between two checkpoints; 0: one after every epoch; None: as usual
    force: bool = False
    since: float = math.inf  # with force: when the run began; what is younger is its own
    fail_fast: bool = False
    assisting: bool = False  # the cells are assistants: in a folder of their own, and another run's are waited for
    visits: int = 0  # how often the whole run looks at every image with this teacher
    replaced: frozenset[Path] = field(default_factory=frozenset)  # records that --force will write anew
    teacher_only: bool = False  # the teacher of the first cell is trained, and nothing else
    room: int | None = None  # bytes that the process may have in all, where others share the main memory
    killed: bool = False  # a process that trained them was killed, perhaps because memory ran out
    lent: Path | None = None  # where teachers and their tables lie; None: in ``out``

    @property
    def home(self) -> Path:
        """The folder of teachers and tables."""
        return self.lent or self.out

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between two checkpoints, as the engine takes them."""
        return None if self.checkpoint_minutes is None else 60 * self.checkpoint_minutes

    @property
    def records(self) -> Path:
        """The folder of the cells' records."""
        return assistants.folder(self.out) if self.assisting else self.out


@group_alive
def run_group(work: Work, emit: Emit, images: Dataset | None = None) -> Done:
    """Train the cells of a group that are nobody else's and not there yet.

    Whatever one cell does, the others go on; a cell that fails says why in what is returned. ``images`` spares the
    loading where the caller has them.

    Raises:
        ValueError: the data are not there.
        KeyboardInterrupt: everything up to the last full epoch is on disk.

    >>> from kdbench.run.session import Request, resolve
    >>> job = resolve(Request("student", suite="digits", seeds="1", device="cpu", epochs=1, limit_train=64))
    >>> work = Work(job.suite, tuple(job.cells[:1]), Path("results"), "cpu", "fp32", epochs=1, limit_train=64)
    >>> done = run_group(work, lambda event: None)
    >>> {cell.seed: record.status for cell, record in done.records.items()}
    {0: 'done'}
    """
    done = Done()
    try:
        _Group(work, emit, images or _images(work, emit), done).run()
    except Stop as stop:
        done.stopped = str(stop)
    except OSError as error:
        done.stopped = disk_trouble(work.out, error)
    return done


def _images(work: Work, emit: Emit) -> Dataset:
    def say(sentence: str) -> None:
        emit(Note(sentence))

    return batches.images(
        work.suite, work.data_dir, work.limit_train, source=work.data_source, workers=work.data_workers, say=say
    )


def disk_trouble(out: Path, error: OSError) -> str:
    """What to say when a file cannot be read or written.

    >>> disk_trouble(Path("results"), OSError(28, "No space left on device", "results/runs"))
    'cannot go on in results: results/runs: No space left on device; what was finished is kept, repeat the ...
    """
    what = one_line(trouble(error))
    return f"cannot go on in {out}: {what}; what was finished is kept, repeat the command when that is mended"


class _Group:
    def __init__(self, work: Work, emit: Emit, images: Dataset, done: Done) -> None:
        self.work, self.emit, self.images, self.done = work, emit, images, done
        self.device = torch.device(work.device)
        self.precision = Precision(work.precision)
        self.precision.prepare(self.device)
        self.first = work.cells[0]
        self.teller = Teller(emit)
        self.ledger = Ledger(
            work.records,
            work.device,
            images.image_shape,
            images.identity.model_dump(mode="json"),
            done,
            emit,
            fail_fast=work.fail_fast,
            replaced=work.replaced,
        )
        compiler = Compiler(self.device) if work.compile else None
        # What students are trained on, and what is held out of it; teachers train on all images.
        self.part, self.held_out = trained_on(images, self.first.recipe)
        self.maker = Maker(work.records, self.part, self.device, self.precision, compiler, self.ledger, emit)
        self.judge: Tapped | None = None  # the suite's teacher, where an assistant teaches

    def run(self) -> None:
        work = self.work
        if work.teacher_only:
            self._teacher(())
            return
        anew = work.force and not work.assisting  # assistants, like teachers, are kept
        claims = claimed(
            work.records, work.cells, self.done, self.emit, force=anew, wait=work.assisting, since=work.since
        )
        with claims as mine:
            if not mine:
                return
            teacher = None
            if self.first.teacher:
                found = self._teacher(mine)
                if found is None:
                    return
                teacher, self.ledger.card = found
            for cell in mine:
                taught_by = self.ledger.card.sha256 if self.ledger.card else ""
                why = in_the_way(work.records, cell, self.ledger.data, self.ledger.card, work.replaced)
                if why := why or tuned.strange(work.out, cell, self.ledger.data, taught_by):
                    self.ledger.fail(cell, why, keep=False)
            mine = [cell for cell in mine if not self.done.ended(cell)]
            self._claimed(mine, teacher)

    def _claimed(self, mine: Sequence[Cell], teacher: Tapped | None) -> None:
        """Train cells that are this process's, as many at once as is known to go well."""
        work, on_cpu = self.work, self.device.type == "cpu"
        with (
            holding(work.home, work.records, mine, self.emit, killed=work.killed, watch=on_cpu) as self.held,
            planning() as self.plans,
        ):
            for cell, why in self.held.doomed.items():
                self.ledger.fail(cell, why, keep=False)
            mine = [cell for cell in mine if not self.done.ended(cell)]
            if mine and registry.get(self.first.method).assistant:
                assistant = self._assistant(mine)
                if assistant is None:
                    return
                self.judge, teacher = teacher, assistant
            most = min(work.lanes or len(mine), self.held.most or len(mine)) or 1
            for start in range(0, len(mine), most):
                self._chunk(mine[start : start + most], teacher)

    def _teacher(self, cells: Sequence[Cell]) -> tuple[Tapped, TeacherCard] | None:
        """The suite's teacher, trained first where there is none; None when it cannot be had, which each cell says."""
        work, name = self.work, self.first.teacher
        wanted = teachers.recipe(work.suite, name, work.epochs, work.limit_train)
        if steps := teachers.steps(work.home / "teachers", work.suite, name, wanted, len(self.images.train_labels)):
            self.emit(GroupBegins(f"teacher {name}", steps))
        try:
            return teachers.get(
                work.home / "teachers",
                work.suite,
                name,
                self.images,
                wanted,
                device=self.device,
                watch=self.teller,
                note=self.teller.note,
                graphs=work.graphs,
                every=work.checkpoint_seconds,
            )
        except OSError:
            raise
        except Exception as error:  # a network of the user's may raise anything
            plain = isinstance(error, teachers.TeacherFailed | ValueError)
            why = one_line(error) if plain else f"no teacher {name}: {type(error).__name__}: {one_line(error)}"
            self.done.untaught = why
            for cell in cells:
                self.ledger.fail(cell, why, keep=False)
            return None

    def _assistant(self, cells: Sequence[Cell]) -> Tapped | None:
        """Who teaches these cells in the teacher's place; None when there is nobody, which each cell says."""
        assert self.ledger.card is not None
        try:
            found, self.ledger.assistant = assistants.find(self.work.out, cells[0], self.ledger.card, self.images)
            return found
        except ValueError as error:
            for cell in cells:
                if isinstance(error, assistants.Refused):
                    self.ledger.refuse(cell, error)
                else:
                    self.ledger.fail(cell, error, keep=False)
            return None

    def _chunk(self, cells: Sequence[Cell], teacher: Tapped | None) -> None:
        """Halves when the memory does not hold the cells; one that does not fit alone fails, and only it."""
        self.held.lanes(cells)
        error = self._fits(cells, teacher)
        if error is None:
            return
        gc.collect()  # an autograd graph or a captured one may hang in a circle
        if self.device.type == "cuda":
            give_back(self.device)
        left = [cell for cell in cells if not self.done.ended(cell)]
        if len(cells) == 1:
            for cell in left:
                self.ledger.fail(cell, f"out of memory: {error}; one lane alone is too large for it", keep=False)
        elif left:
            half = max(1, len(left) // 2)
            self.emit(Note(f"{error}; going on with half of them at once (--lanes {half} begins there)"))
            self._chunk(left[:half], teacher)
            self._chunk(left[half:], teacher)

    def _fits(self, cells: Sequence[Cell], teacher: Tapped | None) -> str | None:
        """Train; the sentence of an error of memory. Nothing of the failed attempt lives on when this returns."""
        try:
            with holds(f"a group of {count(len(cells), 'lane')}", self.device):
                self._together(cells, teacher)
        except OutOfMemory as error:
            release(error)
            return one_line(error)
        return None

    def _together(self, cells: Sequence[Cell], teacher: Tapped | None) -> None:
        """Train cells side by side on one teacher pass."""
        work, first = self.work, self.first
        taught_by = self.ledger.assistant or (self.ledger.card.sha256 if self.ledger.card else "")
        lanes = self.maker.lanes(cells, teacher, taught_by)
        if not lanes:
            return
        loader = batches.make_loader(
            self.part,
            first.recipe,
            seed=stable_seed(first.seed, "data"),
            device=self.device,
            views=next(iter(lanes)).method.views,
        )
        test = batches.test_batches(self.images, first.recipe, self.device)
        held_out = None if self.held_out is None else self._held_out_batches()
        # On the CPU the teacher's table is named by the weights as they are.
        half = self.precision.dtype(self.device) if self.device.type == "cuda" else None
        fold = models.fold if half is None else partial(models.fold, half=half)
        setting = engine.Setting(
            None if teacher is None else fold(teacher).to(self.device),
            loader,
            lambda: test,
            self.device,
            self.precision,
            judge=None if self.judge is None else fold(self.judge).to(self.device),
            machine=machine_for(self.device, work.graphs),
            note=self.teller.note,
            validation=None if held_out is None else lambda: held_out,
            fold=fold,
            every=work.checkpoint_seconds,
            verify=work.verify,
        )
        self.maker.compile(lanes, loader)
        ahead = sum((epochs(cell) - behind(lane)) * len(loader) - lane.begun for lane, cell in lanes.items())
        self.emit(GroupBegins(self._title(), ahead, int(first.recipe["batch_size"])))
        self.emit(Skipped(sum(epochs(cell) for cell in cells) * len(loader) - ahead))
        for lane in lanes:
            self.emit(LanesBegin(lane.stage, (Standing.of(lane),)))
        if teacher is not None:
            teacher.to(self.device)  # the methods read its head where it is
        setting = replace(setting, lasting=reach(self.images, teacher))
        for lane in [lane for lane in lanes if lane.done]:  # killed between the last epoch and the record
            engine.keep(setting, lane, lambda lane: self.ledger.finish(lane, lanes[lane]))
        left = [lane for lane in lanes if not lane.done]
        if left:
            self._train(setting, loader, left, lanes)

    def _held_out_batches(self) -> Plain:
        assert self.held_out is not None
        return batches.plain_batches(
            *self.held_out, self.first.recipe, self.device, side=self.part.side, workers=self.part.workers
        )

    def _train(self, setting: engine.Setting, loader: Loader, left: list[Lane], lanes: dict[Lane, Cell]) -> None:
        work = self.work
        with teacher_cache.taught(
            work.home,
            self.first.assistant.student if self.first.assistant else self.first.teacher,
            self.part,  # its fingerprint names the table, whose entries are places in it
            self.first.recipe,
            setting,
            loader,
            left,
            # An assistant teaches these cells and no others: to keep what it says does not pay.
            visits=0 if self.judge is not None else work.visits,
            note=self.teller.note,
            switch=work.table,
        ) as lent:
            for part in self._parts(lent, left):
                self.ledger.together = {lanes[lane]: part for lane in part}
                self.held.lanes([lanes[lane] for lane in part])
                try:
                    engine.fit(lent, part, self.teller, finish=lambda lane: self.ledger.finish(lane, lanes[lane]))
                finally:
                    self.ledger.together = {}  # nothing of them stays in the memory that the next ones need

    def _parts(self, setting: engine.Setting, lanes: list[Lane]) -> list[list[Lane]]:
        """Lanes that train at once: as many as the memory holds, where --lanes does not say."""
        if self.work.lanes is not None or len(lanes) < 2:
            return [lanes]
        parts = engine.split(setting, lanes, self._free(), self.plans.take)
        if len(parts) > 1:
            most = max(map(len, parts))
            sentence = f"the memory of {self.device} holds {most} of {len(lanes)} lanes at once"
            self.emit(Note(f"{sentence}; --lanes says otherwise"))
        return parts

    def _free(self) -> int | None:
        """Bytes that lanes on the CPU may take; until it is known how many they will, others leave them alone."""
        if self.device.type != "cpu":
            return None
        with self.plans.looking() as promised:
            free = environment.free_memory(self.work.room, promised)
            if free is not None:
                self.plans.take(int(CPU_SHARE * free))
        return free

    def _title(self) -> str:
        first = self.first
        who = f"{first.assistant.student} after {first.teacher}" if first.assistant else first.teacher
        return f"{'teacher assistants of ' if self.work.assisting else ''}{who or 'no teacher'}, seed {first.seed}"


def works(
    cells: Iterable[Cell], common: Work, *, seeds: dict[str, int] | None = None, assisting: bool = False
) -> list[Work]:
    """The groups of these cells as pieces of work; ``common`` has what all share, its cells are not looked at."""
    return [
        replace(
            common,
            cells=tuple(group),
            assisting=assisting,
            visits=group[0].epochs * (seeds or {}).get(group[0].teacher, 1),
        )
        for group in grid.groups(cells)
    ]
