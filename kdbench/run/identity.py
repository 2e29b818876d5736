"""What makes two numbers comparable beside their settings: data, teacher, the method's own file."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench import record, registry
from kdbench.data.identity import DataIdentity, difference
from kdbench.models.teachers import TeacherCard
from kdbench.record import Record
from kdbench.run import grid, known
from kdbench.run.grid import Cell
from kdbench.run.known import Known


def in_the_way(out: Path, cell: Cell, data: Mapping[str, Any], card: TeacherCard | None, replaced: Set[Path]) -> str:
    """A sentence where the cell's row would stand in one table with a row of other data or another teacher.

    Args:
        out: the folder of the records.
        cell: to be trained.
        data: identity of the data that are here.
        card: of the teacher that is here; None where the cell needs none.
        replaced: records that this run writes anew, which are in nobody's way.
    """
    folder = grid.files(out, cell).record.parent
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(record.FAILED_SUFFIX) or path in replaced:
            continue
        try:
            other = known.of(path)
        except (record.RecordDamaged, FileNotFoundError):
            continue
        if other.quick == cell.quick and other.epochs == cell.epochs and (why := _differs(other, cell, data, card)):
            return f"{path.name} was measured with {why}; choose another --out, or restore what it was measured with"
    return ""


def _differs(other: Known, cell: Cell, data: Mapping[str, Any], card: TeacherCard | None) -> str:
    if card is not None and other.teacher_sha256 and other.teacher_sha256 != card.sha256:
        return (
            f"another teacher {cell.teacher} ({other.teacher_sha256[:8]}, here {card.sha256[:8]}), and rows of one"
            " table share a teacher"
        )
    if how := what_differs(other.data, data):
        return f"other data ({how}), and rows of one table share their data"
    return ""


def what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two stored identities of data sets differ, in words; empty where they agree, or one says too little."""
    try:
        return difference(DataIdentity.model_validate(before), DataIdentity.model_validate(now))
    except ValidationError:
        return ""  # kdbench 0.1.0 kept a hash, and another one


def another_cells(one: Record, cell: Cell) -> str:
    """A sentence where the record in a cell's place was written for another one, or does not say that it is done."""
    if one.status == "done" and one.settings_hash == cell.hash:
        return ""
    return (
        f"in the place of its record lies that of {Cell.of(one)} ({one.status}, settings {one.settings_hash}, not"
        f" {cell.hash}); put it back, or --force trains the cell anew"
    )


def changed_plugin(one: Record, cell: Cell) -> str:
    """A sentence where the method's file is another than the one that a record was measured with."""
    here = registry.source_sha256(cell.method)
    if one.plugin_sha256 == here:
        return ""
    return (
        f"{cell} was measured with another file of {cell.method} ({one.plugin_sha256[:8] or 'none'}, here"
        f" {here[:8] or 'none'}); --force trains it anew"
    )
