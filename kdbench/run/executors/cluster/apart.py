"""A unit that goes to a node which does not see the output folder: claimed here, checked here, shown here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from kdbench.data import Dataset
from kdbench.models.teachers import TeacherCard, read_card
from kdbench.run import tuned
from kdbench.run.claims import claimed
from kdbench.run.executors.cluster import parcel
from kdbench.run.executors.cluster.parcel import Parcel
from kdbench.run.executors.cluster.token import name_of
from kdbench.run.executors.cluster.tries import Try
from kdbench.run.grid import Cell
from kdbench.run.group import Work
from kdbench.run.hearts import beating
from kdbench.run.identity import in_the_way
from kdbench.run.outcome import CellEnded, Emit
from kdbench.run.pulse import GroupPulse


def pack(one: Try, images: Dataset, emit: Emit) -> Parcel | None:
    """What the unit reads; None: nothing of it is left to do.

    The driver keeps its cells' locks until ``one.held`` is closed, and writes signs of life for the node.
    """
    work = one.work
    if not work.teacher_only:
        work = replace(work, cells=tuple(_mine(one, images, emit)))
        if not work.cells:
            if work.fail_fast and one.known.failed:
                cell, why = next(iter(one.known.failed.items()))
                one.known.stopped = f"{cell} failed: {why} (--fail-fast)"
            return None
    one.work = work
    one.pulse = GroupPulse(int(work.cells[0].recipe["batch_size"]))
    one.held.enter_context(beating(work.home, "group", lambda: _sign(one)))
    return Parcel(name_of(work.out), parcel.needed(work))


def _mine(one: Try, images: Dataset, emit: Emit) -> list[Cell]:
    """Cells that nobody else trains, and that are in no table's way."""
    work, known = one.work, one.known
    anew = work.force and not work.assisting
    mine = one.held.enter_context(
        claimed(work.records, work.cells, known, emit, force=anew, wait=False, since=work.since)
    )
    for cell in mine:
        if why := _in_the_way(work, cell, images):
            known.failed[cell] = why
            emit(CellEnded(cell, "failed", why))
    return [cell for cell in mine if cell not in known.failed]


def _in_the_way(work: Work, cell: Cell, images: Dataset) -> str:
    card: TeacherCard | None = None
    files = [path for path in parcel.teacher_files(work) if path.suffix == ".json"]
    with suppress(OSError, ValueError):  # a card that cannot be read is said where it is used
        card = read_card(files[0]) if files else None
    data = images.identity.model_dump(mode="json")
    why = in_the_way(work.records, cell, data, card, work.replaced)
    return why or tuned.strange(work.out, cell, data, card.sha256 if card else "")


def _sign(one: Try) -> dict[str, Any]:
    """Of life: what a node does that cannot say it here itself."""
    assert one.pulse is not None
    facts = one.pulse.facts()
    if one.began is not None:
        facts |= {"host": one.began.host, "pid": one.began.pid, "space": "", "born": ""}
    return facts
