"""Cells that share a teacher pass: locked, built, resumed, trained side by side and written down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from filelock import FileLock, Timeout

from kdbench import models, record, registry
from kdbench.data import Dataset, Loader
from kdbench.distiller import Distiller, Pair
from kdbench.engine import fit as engine
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign
from kdbench.engine.compiled import CannotCompile, Compiler
from kdbench.engine.errors import holds, release
from kdbench.engine.graph.backend import machine_for
from kdbench.engine.guard import NotBuilt, built
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.engine.shared import Lasting, tensors_of
from kdbench.models import Tapped
from kdbench.models.teachers import TeacherCard
from kdbench.registry.combine import Combined
from kdbench.run import assistants, grid
from kdbench.run import teacher_cache as tables
from kdbench.run import teachers as teaching
from kdbench.run.grid import Cell
from kdbench.run.ledger import keep_student, make_record
from kdbench.run.outcome import Outcome, Stop, Watcher
from kdbench.run.session import Job
from kdbench.utils import environment
from kdbench.utils.seeding import stable_seed
from kdbench.utils.wording import count


class Group:
    """Cells of one teacher, seed and kind of batch.

    ``assisting``: they are assistants, which have a folder of their own, and another run's are waited for.
    """

    def __init__(
        self, job: Job, images: Dataset, cells: list[Cell], watch: Watcher, outcome: Outcome, *, assisting: bool = False
    ) -> None:
        self.job, self.images, self.cells, self.watch, self.outcome = job, images, cells, watch, outcome
        self.device = torch.device(job.device)
        self.precision = Precision(job.request.precision)
        self.precision.prepare(self.device)
        self.compiler = Compiler(self.device) if job.request.compile else None
        self.assisting = assisting
        self.out = assistants.folder(job.request.out) if assisting else job.request.out
        self.judge: Tapped | None = None  # the suite's teacher, where an assistant teaches
        self.assistant = ""  # sha256 of its weights
        if assisting:  # locks are waited for, so every process takes them in the same order
            self.cells = sorted(cells, key=lambda cell: grid.files(self.out, cell).record)
        first = cells[0]
        self.suite, self.seed, self.epochs = job.suite, first.seed, first.epochs
        self.recipe = dict(first.settings["recipe"])

    def run(self) -> None:
        """Lock the cells, get the teacher, train."""
        with ExitStack() as locks:
            mine = [cell for cell in self.cells if self._lock(cell, locks)]
            mine = [cell for cell in mine if self._anew(cell) or self._still_missing(cell)]
            if not mine:
                return
            try:
                teacher, card = self._teacher(mine[0].teacher)
            except (teaching.TeacherFailed, ValueError) as error:
                for cell in mine:
                    self._fail(cell, str(error), keep=False)
                return
            self._check_same_teacher(mine, card)
            mine = [cell for cell in mine if cell not in self.outcome.failed]
            if mine and registry.get(mine[0].spec.name).assistant:
                found = self._find_assistant(mine, card)
                if found is None:
                    return
                self.judge, teacher = teacher, found
            self._chunk(mine, teacher, card)

    def _find_assistant(self, cells: list[Cell], card: TeacherCard) -> Tapped | None:
        """Who teaches these cells in the teacher's place; None when there is nobody, which each cell says."""
        try:
            found, self.assistant = assistants.find(self.out, cells[0], card, self.images)
            return found
        except ValueError as error:
            for cell in cells:
                if isinstance(error, assistants.Refused):
                    self._refuse(cell, str(error), card)
                else:
                    self._fail(cell, str(error), keep=False)
            return None

    def _lock(self, cell: Cell, locks: ExitStack) -> bool:
        path = grid.files(self.out, cell).lock
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if self.assisting:
                self.watch.note(f"another kdbench run is training the assistant {cell}; waiting for it")
                lock.acquire()
                locks.callback(lock.release)
                return True
            self.outcome.elsewhere.append(cell)
            self.watch.cell(cell, "elsewhere", "another kdbench run on this folder is training it")
            return False
        locks.callback(path.unlink, missing_ok=True)
        locks.callback(lock.release)
        return True

    def _anew(self, cell: Cell) -> bool:
        """With --force a cell starts from the beginning; assistants, like teachers, are kept."""
        if self.job.request.force and not self.assisting:
            grid.files(self.out, cell).checkpoint.unlink(missing_ok=True)
            return True
        return False

    def _still_missing(self, cell: Cell) -> bool:
        """Another process may have finished it before the lock was ours."""
        if grid.files(self.out, cell).record.exists():
            self.outcome.done.append(cell)
            return False
        return True

    def _teacher(self, name: str) -> tuple[Tapped, TeacherCard]:
        wanted = teaching.recipe(self.suite, name, self.job.request.epochs, self.job.request.limit_train)
        if steps := teacher_steps(self.job, self.images, name):
            self.watch.group(f"teacher {name}", steps)
        return teaching.get(
            self.job.request.out / "teachers",
            self.suite,
            name,
            self.images,
            wanted,
            device=self.device,
            watch=self.watch,
            note=self.watch.note,
            graphs=self.job.request.graphs,
        )

    def _check_same_teacher(self, cells: Sequence[Cell], card: TeacherCard) -> None:
        """Rows of one table share a teacher: a record of another one is in the way."""
        forced = self.job.cells if self.job.request.force else []
        replaced = {grid.files(self.out, cell).record for cell in forced}
        for cell in cells:
            folder = grid.files(self.out, cell).record.parent
            for path in sorted(folder.glob("*.json")):
                if path.name.endswith(".failed.json") or path in replaced:
                    continue
                try:
                    other = record.read(path)
                except record.RecordDamaged:
                    continue
                same_kind = other.quick == cell.quick and other.epochs == cell.epochs
                if same_kind and other.teacher_sha256 and other.teacher_sha256 != card.sha256:
                    self._fail(
                        cell,
                        f"{path.name} was measured with another teacher {cell.teacher}"
                        f" ({other.teacher_sha256[:8]}, here {card.sha256[:8]}); rows of one table share a"
                        " teacher: choose another --out or restore that teacher",
                        keep=False,
                    )
                    break

    def _chunk(self, cells: list[Cell], teacher: Tapped, card: TeacherCard) -> None:
        """At most ``--lanes`` cells at once; halves when the memory does not hold them."""
        most = self.job.request.lanes or max(1, len(cells))
        for start in range(0, len(cells), most):
            part = cells[start : start + most]
            try:
                with holds(f"a group of {count(len(part), 'lane')}", self.device):
                    self._together(part, teacher, card)
            except engine.OutOfMemory as error:
                release(error)
                left = [
                    cell
                    for cell in part
                    if cell not in self.outcome.done
                    and cell not in self.outcome.failed
                    and cell not in self.outcome.unsupported
                ]
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(part) == 1:
                    for cell in left:
                        self._fail(cell, f"out of memory: {error}; one lane alone is too large for it", keep=False)
                    continue
                if self.job.request.lanes is not None:
                    fewer = max(1, len(left) // 2)
                    raise Stop(f"out of memory: {error}; try --lanes {fewer} (what was trained is kept)") from None
                self.watch.note(f"{error}; going on with half of them at once")
                half = max(1, len(left) // 2)
                self._chunk(left[:half], teacher, card)
                self._chunk(left[half:], teacher, card)

    def _together(self, cells: list[Cell], teacher: Tapped, card: TeacherCard) -> None:
        """Train cells side by side on one teacher pass."""
        lanes: dict[Lane, Cell] = {}
        for cell in cells:
            lane = self._lane(cell, teacher, card)
            if lane is not None:
                lanes[lane] = cell
        if not lanes:
            return
        views = next(iter(lanes)).method.views
        loader = teaching.make_loader(
            self.images, self.recipe, seed=stable_seed(self.seed, "data"), device=self.device, views=views
        )
        shown = models.fold(teacher).to(self.device)
        test = teaching.test_batches(self.images, self.recipe, self.device)
        setting = engine.Setting(
            shown,
            loader,
            lambda: test,
            self.device,
            self.precision,
            judge=None if self.judge is None else models.fold(self.judge).to(self.device),
            machine=machine_for(self.device, self.job.request.graphs),
            note=self.watch.note,
            fold=models.fold,
        )
        self._compile(lanes, loader)
        ahead = sum(epochs(cell) - _behind(lane) for lane, cell in lanes.items()) * len(loader)
        self.watch.skip(sum(epochs(cell) for cell in cells) * len(loader) - ahead)
        first = cells[0]
        who = f"{first.assistant.student} after {first.teacher}" if first.assistant else first.teacher
        self.watch.group(f"{'assistants of ' if self.assisting else ''}{who}, seed {first.seed}", ahead)
        teacher.to(self.device)  # the methods read its head where it is
        setting = replace(setting, lasting=Lasting(self._reach(teacher)))
        done_already = [lane for lane in lanes if lane.done]
        for lane in done_already:  # killed between the last epoch and the record
            engine.keep(setting, lane, lambda lane: self._finish(lane, lanes[lane], card))
        left = [lane for lane in lanes if not lane.done]
        if left:
            seeds = {cell.seed for cell in self.job.cells if cell.teacher == first.teacher}
            with tables.taught(
                self.job.request.out,
                shown.name,
                self.images,
                self.recipe,
                setting,
                loader,
                left,
                # An assistant teaches these cells and no others: to keep what it says does not pay.
                visits=0 if self.judge is not None else self.epochs * len(seeds),
                note=self.watch.note,
                switch=self.job.request.table,
            ) as lent:
                for part in self._parts(lent, left):
                    engine.fit(lent, part, self.watch, finish=lambda lane: self._finish(lane, lanes[lane], card))

    def _compile(self, lanes: dict[Lane, Cell], loader: Loader) -> None:
        """With --compile, compile the lanes' students before any clock runs; takes out those that cannot be."""
        if self.compiler is None:
            return
        image, *_ = next(iter(loader.epoch(0)))
        last = len(loader.labels) - (len(loader) - 1) * loader.batch_size
        images = {len(some): some for some in (image, image[: last * loader.num_views])}
        for lane, cell in list(lanes.items()):
            try:
                if not lane.done:
                    self.compiler.prepare(lane.student, list(images.values()), self.precision, self.watch.note)
            except CannotCompile as error:
                del lanes[lane]
                self._fail(cell, str(error), keep=False)

    def _parts(self, setting: engine.Setting, lanes: list[Lane]) -> list[list[Lane]]:
        """Lanes that train at once: as many as the memory holds, where --lanes does not say."""
        if self.job.request.lanes is not None:
            return [lanes]
        parts = engine.split(setting, lanes, environment.free_memory())
        if len(parts) > 1:
            self.watch.note(f"the memory of {self.device} holds {max(map(len, parts))} of {len(lanes)} lanes at once")
        return parts

    def _lane(self, cell: Cell, teacher: Tapped, card: TeacherCard) -> Lane | None:
        """The cell's lane, resumed where a checkpoint lies; None when it cannot be trained."""
        size = self.images.image_shape[-1]
        where = grid.files(self.out, cell)
        try:
            # Common random numbers: methods of one seed start from the same student.
            torch.manual_seed(stable_seed(cell.seed, "student", cell.student))
            student = models.create(cell.student, self.images.num_classes, image_size=size)
            pair = models.make_pair(
                student,
                teacher,
                image_shape=self.images.image_shape,
                num_classes=self.images.num_classes,
                train_labels=self.images.train_labels,
                batch_size=self.recipe["batch_size"],
            )
            torch.manual_seed(stable_seed(cell.seed, "method", cell.student))
            shared = [Lasting(self._reach(teacher))]
            method = built(str(cell), partial(build, cell, pair), shared=shared)
        except ValueError as error:
            self._refuse(cell, str(error), card)
            return None
        except NotBuilt as error:
            self._fail(cell, f"the method could not be built: {error}", card=card)
            return None
        recipe = cell.settings["recipe"]
        plan = Plan(
            cell.epochs,
            recipe["lr"],
            recipe["momentum"],
            recipe["nesterov"],
            recipe["weight_decay"],
            tuple(recipe["milestones"]),
            recipe["gamma"],
            recipe["eval_every"],
        )
        make = partial(
            Lane,
            str(cell),
            student,
            method,
            plan,
            seed=stable_seed(cell.seed, "lane", cell.student),
            path=where.checkpoint,
            settings=cell.hash,
            teacher=self.assistant or card.sha256,
            device=self.device,
            precision=self.precision,
            compiler=self.compiler,
        )
        try:
            lane = built(str(cell), make, shared=shared)
            if built(str(cell), lane.resume, shared=shared, passing=(CheckpointDamaged, CheckpointForeign, OSError)):
                self.watch.note(f"{cell}: going on after epoch {lane.epoch} of {lane.total}")
        except CheckpointDamaged as error:
            aside = where.checkpoint.with_suffix(".ckpt.damaged")
            os.replace(where.checkpoint, aside)
            self.watch.note(f"{error}; put aside as {aside.name}, the cell starts anew")
        except CheckpointForeign as error:
            self._fail(cell, str(error), keep=False)
            return None
        except (ValueError, NotBuilt) as error:
            self._fail(cell, f"its training cannot begin: {error}", card=card)
            return None
        return lane

    def _reach(self, teacher: Tapped) -> dict[str, list[torch.Tensor]]:
        """What methods can reach of what all share."""
        labels = self.images.train_labels
        return {"the teacher's weights": tensors_of(teacher), "the training labels": [labels]}

    def _finish(self, lane: Lane, cell: Cell, card: TeacherCard) -> None:
        """Write what a lane has become; its record's existence means done."""
        if lane.failure:
            self._fail(cell, lane.failure, card=card, lane=lane)
            return
        where = grid.files(self.out, cell)
        keep_student(lane, where.student)
        made = make_record(self.job, self.images, cell, lane, card, assistant=self.assistant)
        record.write(made, where.record)
        where.failed.unlink(missing_ok=True)
        where.checkpoint.unlink(missing_ok=True)
        self.outcome.done.append(cell)
        self.watch.cell(cell, "done", f"{made.top1_last:.2f}%")

    def _fail(
        self, cell: Cell, reason: str, *, card: TeacherCard | None = None, lane: Lane | None = None, keep: bool = True
    ) -> None:
        """A cell that cannot be finished. ``keep`` writes it down, so that the report can say why."""
        if keep:
            where = grid.files(self.out, cell)
            made = make_record(self.job, self.images, cell, lane, card, status="failed", reason=reason)
            record.write(made, where.failed)
            where.checkpoint.unlink(missing_ok=True)
        self.outcome.failed[cell] = reason
        self.watch.cell(cell, "failed", reason)
        if self.job.request.fail_fast:
            raise Stop(f"{cell} failed: {reason} (--fail-fast)")

    def _refuse(self, cell: Cell, reason: str, card: TeacherCard) -> None:
        where = grid.files(self.out, cell)
        made = make_record(self.job, self.images, cell, None, card, status="unsupported", reason=reason)
        record.write(made, where.failed)
        self.outcome.unsupported.append(cell)
        self.watch.cell(cell, "unsupported", reason)


def build(cell: Cell, pair: Pair) -> Distiller:
    """The cell's method with its hyper-parameters.

    Raises:
        ValueError: it cannot serve the pair.
    """
    cls = registry.get(cell.spec.name)
    if issubclass(cls, Combined):
        return cls.build(pair, **cell.hyper)
    return cls(pair, **cell.hyper)


def _behind(lane: Lane) -> int:
    """Epochs that a resumed lane has behind it."""
    return lane.epoch + (lane.pretrain_total if lane.stage == "train" else 0)


def epochs(cell: Cell) -> int:
    """Epochs of all stages of one cell."""
    plan = Plan(cell.epochs, cell.settings["recipe"]["lr"])
    return cell.epochs + plan.pretrain_epochs(registry.get(cell.spec.name))


def teacher_steps(job: Job, images: Dataset, name: str) -> int:
    """Batches that a teacher's own training takes; 0 when it is stored."""
    wanted = teaching.recipe(job.suite, name, job.request.epochs, job.request.limit_train)
    if teaching.there(job.request.out / "teachers", job.suite, name, wanted) is not None:
        return 0
    return int(wanted["epochs"]) * -(-len(images.train_labels) // wanted["batch_size"])
