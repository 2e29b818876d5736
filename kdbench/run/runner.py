"""Runs a job: groups of cells through the engine, one record for each. Survives anything but the disk."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kdbench import data, record
from kdbench.data import Dataset
from kdbench.run import assistants, grid
from kdbench.run import teachers as teaching
from kdbench.run.grid import Cell
from kdbench.run.group import Group, epochs, teacher_steps
from kdbench.run.outcome import Outcome, Stop, Watcher
from kdbench.run.session import Job
from kdbench.utils.files import check_writable


def run(job: Job, watch: Watcher) -> Outcome:
    """Train what is missing.

    Raises:
        ValueError: the data are not there, or the output folder cannot be written to at all.
        Stop: see there.
        KeyboardInterrupt: everything up to the last full epoch is on disk.
    """
    outcome = Outcome()
    todo = _todo(job, watch, outcome)
    if not todo:
        return outcome
    check_writable(job.request.out)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    whole = teaching.images(job.suite, job.request.data_dir)
    limit = job.request.limit_train
    helpers = assistants.missing(job.request.out, todo, retry_failed=job.request.retry_failed)
    try:
        images = whole if limit is None else data.limit(whole, limit)
        ahead = sum(epochs(cell) for cell in [*helpers, *todo]) * _steps(images, todo[0])
        watch.begin(ahead + sum(teacher_steps(job, images, name) for name in {cell.teacher for cell in todo}))
        for group in grid.groups(helpers):
            Group(job, images, group, watch, Outcome(), assisting=True).run()
        for group in grid.groups(todo):
            Group(job, images, group, watch, outcome).run()
    except OSError as error:
        raise Stop(
            f"cannot write to {job.request.out}: {error.strerror or error};"
            " what was finished is kept, repeat the command when there is room"
        ) from error
    return outcome


def _steps(images: Dataset, cell: Cell) -> int:
    """Batches of one epoch."""
    return -(-len(images.train_labels) // cell.settings["recipe"]["batch_size"])


def _todo(job: Job, watch: Watcher, outcome: Outcome) -> list[Cell]:
    """Cells still to train; the others go to the outcome."""
    todo = []
    for cell, state in job.states().items():
        where = grid.files(job.request.out, cell)
        if job.request.force:  # the old record stays until the new one takes its place
            todo.append(cell)
        elif state == "done":
            try:
                record.read(where.record)
                outcome.done.append(cell)
            except record.RecordDamaged as error:
                outcome.failed[cell] = f"{error}; --force trains the cell anew"
                watch.cell(cell, "failed", outcome.failed[cell])
        elif state == "failed" and not job.request.retry_failed:
            reason = _reason(where.failed)
            outcome.failed[cell] = reason
            watch.cell(cell, "failed", f"{reason} (in an earlier run; --retry-failed tries again)")
        else:
            todo.append(cell)
    return todo


def _reason(path: Path) -> str:
    try:
        return record.read(path).reason
    except record.RecordDamaged as error:
        return str(error)
