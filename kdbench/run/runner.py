"""Runs a job: groups of cells through the engine, one record for each. Survives anything but the disk."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from kdbench import record, registry
from kdbench.data import Dataset, trained_count
from kdbench.run import assistants, batches, foreseen, grid, known, teachers
from kdbench.run.executors.choose import choose
from kdbench.run.grid import Cell
from kdbench.run.group import Work, disk_trouble, works
from kdbench.run.identity import another_cells, changed_plugin
from kdbench.run.lanes import epochs
from kdbench.run.ledger import Ledger
from kdbench.run.outcome import Done, Emit, Outcome, Stop, Watcher, tell
from kdbench.run.pulse import run_alive
from kdbench.run.session import Job
from kdbench.run.tracked import attended
from kdbench.utils import environment
from kdbench.utils.collecting import no_collecting
from kdbench.utils.files import check_writable


@attended
@run_alive
def run(job: Job, watch: Watcher, images: Dataset | None = None) -> Outcome:
    """Train what is missing. ``images`` take the place of the suite's.

    Raises:
        ValueError: the data are not there, or the output folder cannot be written to at all.
        Stop: see there.
        KeyboardInterrupt: everything up to the last full epoch is on disk.

    >>> from kdbench.run.session import Request, resolve
    >>> class Quiet(Watcher):
    ...     "Hears everything and says nothing."
    >>> words = {"suite": "digits", "seeds": "1", "epochs": 1, "limit_train": 64, "device": "cpu"}
    >>> job = resolve(Request("student", "resnet20:resnet8", **words))
    >>> outcome = run(job, Quiet())
    >>> [cell.label for cell in outcome.done], outcome.exit_code
    (['student'], 0)
    """
    outcome = Outcome()
    emit: Emit = partial(tell, watch)
    todo = _todo(job, watch, outcome)
    if not todo:
        return outcome
    request = job.request
    torch.set_num_threads(environment.threads())
    images = images or batches.images(
        job.suite,
        request.data_dir,
        request.limit_train,
        source=request.data_source,
        workers=request.data_workers,
        say=watch.note,
    )
    for sentence in images.notes:
        watch.note(sentence)
    watch.note(f"data {images.name}: {images.identity.describe()}")
    check_writable(request.out)
    try:
        todo = _without_refused(job, todo, images, watch, outcome)
        common = _common(job)
    except OSError as error:
        raise Stop(disk_trouble(request.out, error)) from error
    if not todo:
        return outcome
    helpers = assistants.missing(request.out, todo, retry_failed=request.retry_failed)
    watch.begin(_ahead(job, images, [*helpers, *todo]))
    asked = [*works(helpers, common, assisting=True), *works(todo, common, seeds=_seeds(job))]
    executor, units = choose(job, asked, images, watch.note)
    try:
        with closing(executor.run(units, emit)) as ended:
            for unit, done in ended:
                if not unit.work.assisting and not unit.work.teacher_only:
                    outcome.add(done)
                if done.stopped:
                    raise Stop(done.stopped)
    except OSError as error:
        raise Stop(disk_trouble(request.out, error)) from error
    finally:
        known.learn(request.out, [grid.files(request.out, cell).record for cell in outcome.done])
    return outcome


def _without_refused(job: Job, todo: list[Cell], images: Dataset, watch: Watcher, outcome: Outcome) -> list[Cell]:
    """Cells that are left where no teacher is to be trained for a pair that the method refuses."""
    request = job.request
    helpers = assistants.missing(request.out, todo, retry_failed=request.retry_failed)
    absent: dict[str, bool] = {}
    for name in {cell.teacher for cell in todo if cell.teacher}:
        wanted = teachers.recipe(job.suite, name, request.epochs, request.limit_train)
        absent[name] = teachers.there(request.teachers, job.suite, name, wanted) is None
    untaught = {cell for cell in todo if cell.teacher and (absent[cell.teacher] or cell.assistant in helpers)}
    found = foreseen.refusals(todo, images, untaught.__contains__, watch.note)
    done, data = Done(), images.identity.model_dump(mode="json")
    replaced = frozenset(grid.files(request.out, cell).record for cell in todo if request.force)
    ledger = Ledger(request.out, job.device, images.image_shape, data, done, partial(tell, watch), replaced=replaced)
    for cell, why in found.items():
        ledger.refuse(cell, why)
    outcome.add(done)
    return [cell for cell in todo if cell not in found]


def _common(job: Job) -> Work:
    """What all groups of a job share."""
    request = job.request
    forced = job.cells if request.force else []
    return Work(
        suite=job.suite,
        cells=(),
        out=request.out,
        device=job.device,
        precision=request.precision,
        data_dir=request.data_dir,
        data_source=request.data_source,
        data_workers=request.data_workers,
        epochs=request.epochs,
        limit_train=request.limit_train,
        lanes=request.lanes,
        graphs=request.graphs,
        verify=request.verify,
        table=request.table,
        compile=bool(request.compile),
        checkpoint_minutes=request.checkpoint_minutes,
        force=request.force,
        since=_now(request.out) if request.force else math.inf,
        fail_fast=request.fail_fast,
        lent=request.home,
        replaced=frozenset(grid.files(request.out, cell).record for cell in forced),
    )


def _now(out: Path) -> float:
    """The time, as the folder's file system has it."""
    with tempfile.NamedTemporaryFile(dir=out, prefix=".kdbench-") as file:
        return os.fstat(file.fileno()).st_mtime


def _seeds(job: Job) -> dict[str, int]:
    """Number of seeds that are asked for of each teacher."""
    found: dict[str, set[int]] = {}
    for cell in job.cells:
        found.setdefault(cell.teacher, set()).add(cell.seed)
    return {teacher: len(seeds) for teacher, seeds in found.items()}


def _ahead(job: Job, images: Dataset, cells: list[Cell]) -> int:
    """Steps of all lanes and of teachers that must be trained first."""
    count, folder = len(images.train_labels), job.request.teachers
    steps = 0
    for cell in cells:
        trained = trained_count(count, cell.recipe)
        steps += epochs(cell) * -(-trained // int(cell.recipe["batch_size"]))
    for name in {cell.teacher for cell in cells if cell.teacher}:
        wanted = teachers.recipe(job.suite, name, job.request.epochs, job.request.limit_train)
        steps += teachers.steps(folder, job.suite, name, wanted, count)
    return steps


def _todo(job: Job, watch: Watcher, outcome: Outcome) -> list[Cell]:
    """Cells still to train; the others go to the outcome."""
    todo: list[Cell] = []
    known.load(job.request.out)
    with no_collecting():
        _sort(job, watch, outcome, todo)
    if outcome.done:
        known.keep(job.request.out)
    return todo


def _sort(job: Job, watch: Watcher, outcome: Outcome, todo: list[Cell]) -> None:
    for cell, state in job.states().items():
        where = grid.files(job.request.out, cell)
        if job.request.force:  # the old record stays until the new one takes its place
            todo.append(cell)
        elif state == "done" and _is_as_asked(where.record, cell):
            outcome.done.append(cell)
        elif state == "done":
            try:
                one = record.read(where.record)
                why = another_cells(one, cell) or changed_plugin(one, cell)
            except record.RecordDamaged as error:
                why = f"{error}; --force trains the cell anew"
            if why:
                outcome.failed[cell] = why
                watch.cell(cell, "failed", why)
            else:
                outcome.done.append(cell)
        elif state == "failed" and not job.request.retry_failed:
            reason = _reason(where.failed)
            outcome.failed[cell] = reason
            watch.cell(cell, "failed", f"{reason} (in an earlier run; --retry-failed tries again)")
        else:
            todo.append(cell)


def _is_as_asked(path: Path, cell: Cell) -> bool:
    """Whether a record that was believed before is this cell's; where it is not, who reads it says why."""
    try:
        one = known.of(path)
    except (record.RecordDamaged, OSError):
        return False
    own = registry.source_sha256(cell.method)
    return (one.status, one.settings_hash, one.plugin_sha256) == ("done", cell.hash, own)


def _reason(path: Path) -> str:
    try:
        return record.read(path).reason
    except record.RecordDamaged as error:
        return str(error)
