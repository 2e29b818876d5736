"""What stays of a cell: its record and its student, and what the run is told of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from kdbench import record, registry
from kdbench.engine.checkpoint import beside_sha256
from kdbench.engine.lane import Lane
from kdbench.models.teachers import TeacherCard
from kdbench.record import Record, Status
from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.outcome import CellEnded, Done, Emit, Note, Stop, one_line
from kdbench.utils import environment
from kdbench.utils.files import atomic_write


@dataclass
class Ledger:
    """Writes down what becomes of the cells of a group.

    ``card`` is the suite's teacher, also where an ``assistant`` (sha256 of its weights) taught in its place:
    accuracy of and agreement with the teacher mean the same in every row of a table.
    """

    out: Path
    device: str
    image_shape: tuple[int, int, int]
    data: Mapping[str, Any]  # identity of the data set
    done: Done
    emit: Emit
    fail_fast: bool = False
    card: TeacherCard | None = None
    assistant: str = ""
    replaced: frozenset[Path] = frozenset()  # records that --force gives up, whatever comes in their place
    together: dict[Cell, list[Lane]] = field(default_factory=dict)  # the lanes that a cell's was trained beside

    def finish(self, lane: Lane, cell: Cell) -> None:
        """Write what a lane has become; its record's existence means done."""
        if lane.failure:
            self.fail(cell, lane.failure, lane=lane)
            return
        where = grid.files(self.out, cell)
        keep_student(lane, where.student)
        made = record.write(self._record(cell, "done", lane=lane), where.record)
        where.failed.unlink(missing_ok=True)
        where.checkpoint.unlink(missing_ok=True)
        self.done.records[cell] = made
        self.emit(CellEnded(cell, "done", f"{made.top1_last:.2f}%"))

    def fail(self, cell: Cell, reason: object, *, lane: Lane | None = None, keep: bool = True) -> None:
        """A cell that cannot be finished. ``keep`` writes it down, so that the report can say why.

        Raises:
            Stop: the run is to end with the first failure.
        """
        said = one_line(reason)
        if keep:
            where = grid.files(self.out, cell)
            self.done.records[cell] = record.write(self._record(cell, "failed", said, lane), where.failed)
            where.checkpoint.unlink(missing_ok=True)
            self._put_aside(where)
        self.done.failed[cell] = said
        self.emit(CellEnded(cell, "failed", said))
        if self.fail_fast:
            raise Stop(f"{cell} failed: {said} (--fail-fast)")

    def refuse(self, cell: Cell, reason: object) -> None:
        """The method does not serve the pair; the sentence is what the table prints."""
        said = one_line(reason) or "refused without a sentence"
        where = grid.files(self.out, cell)
        self.done.records[cell] = record.write(self._record(cell, "unsupported", said), where.failed)
        self._put_aside(where)
        self.emit(CellEnded(cell, "unsupported", said))

    def _put_aside(self, where: grid.Files) -> None:
        """With --force a cell that failed or was refused has no older result any more; it is kept, and not read."""
        if where.record in self.replaced and where.record.exists():
            aside = where.record.with_suffix(".replaced")
            os.replace(where.record, aside)
            self.emit(Note(f"the record of before is put aside as {aside.name}"))

    def _record(self, cell: Cell, status: Status, reason: str = "", lane: Lane | None = None) -> Record:
        method = registry.get(cell.method)
        taught = self.card if cell.teacher else None
        return Record(
            status=status,
            reason=reason,
            method=cell.label,
            quick=cell.quick,
            settings=cell.settings,
            data=dict(self.data),
            teacher_sha256=taught.sha256 if taught else "",
            teacher_top1=taught.top1 if taught else None,
            assistant_sha256=self.assistant,
            plugin_sha256=registry.source_sha256(cell.method),
            provenance=method.provenance,
            modified_student=method.modifies_student(),
            code=environment.code(),
            environment=environment.describe(self.device),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            **({} if lane is None else self._measured(cell, lane, whole=status == "done")),
        )

    def _measured(self, cell: Cell, lane: Lane, *, whole: bool) -> dict[str, Any]:
        beside = self.together.get(cell, [lane])
        seconds = sum(one.seconds for one in beside)
        found: dict[str, Any] = {
            "curve": lane.curve,
            "group_seconds": seconds,
            "group_lanes": len(beside),
            "images_per_second": sum(one.images for one in beside) / seconds if seconds else None,
            "extra_train_params": lane.extra_train_params(),
        }
        if not whole:
            return found
        example = torch.zeros(2, *self.image_shape, device=lane.device)
        return found | {
            "top1_last": lane.report["top1"],
            "top1_at_best_val": at_best_validation(lane.curve),
            "ema_top1_last": lane.curve[-1].get("ema_top1"),
            "top1_best_test": max(point["top1"] for point in lane.curve if "top1" in point),
            "top5_last": lane.report["top5"],
            "nll": lane.report["nll"],
            "ece": lane.report["ece"],
            "agreement": lane.report.get("agreement"),
            "weights_sha256": lane.weights_sha256(),
            "kept_sha256": beside_sha256(lane.kept_state()),
            "extra_infer_params": lane.extra_infer_params(example),
        }


def at_best_validation(curve: Sequence[Mapping[str, Any]]) -> float | None:
    """Test accuracy at the first epoch with the best validation accuracy; None where nothing was held out."""
    points = [point for point in curve if "val_top1" in point]
    return max(points, key=lambda point: point["val_top1"])["top1"] if points else None


def keep_student(lane: Lane, path: Path) -> None:
    """The finished student (and the method's modules, when prediction needs them) as safetensors.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(save(lane.kept_state()))
