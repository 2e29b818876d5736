"""What stays of a trained cell: its record and its student."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from kdbench import registry
from kdbench.data import Dataset
from kdbench.engine.lane import Lane
from kdbench.models.teachers import TeacherCard
from kdbench.record import Record
from kdbench.run.grid import Cell
from kdbench.run.session import Job
from kdbench.utils import environment
from kdbench.utils.files import atomic_write


def keep_student(lane: Lane, path: Path) -> None:
    """The finished student (and the method's modules, when prediction needs them) as safetensors."""
    with atomic_write(path) as file:
        file.write(save(lane.kept_state()))


def make_record(
    job: Job,
    images: Dataset,
    cell: Cell,
    lane: Lane | None,
    card: TeacherCard | None,
    *,
    status: Literal["done", "failed", "unsupported"] = "done",
    reason: str = "",
    assistant: str = "",
) -> Record:
    """The record of a cell, whatever became of it.

    ``card`` is the suite's teacher, also where an ``assistant`` (sha256 of its weights) taught in
    its place: accuracy of and agreement with the teacher mean the same in every row of a table.
    """
    method = registry.get(cell.spec.name)
    seen: dict[str, Any] = {}
    if lane is not None:
        tested = [point["top1"] for point in lane.curve if "top1" in point]
        seen = {
            "curve": lane.curve,
            "train_seconds": lane.seconds,
            "images_per_second": lane.images / lane.seconds if lane.seconds else None,
            "peak_mem_mb": environment.peak_memory_mb(job.device),
            "extra_train_params": lane.extra_train_params(),
        }
        if status == "done":
            example = torch.zeros(2, *images.image_shape, device=lane.device)
            seen |= {
                "top1_last": lane.report["top1"],
                "top1_best_test": max(tested),
                "top5_last": lane.report["top5"],
                "nll": lane.report["nll"],
                "ece": lane.report["ece"],
                "agreement": lane.report.get("agreement"),
                "weights_sha256": lane.weights_sha256(),
                "extra_infer_params": lane.extra_infer_params(example),
            }
    return Record(
        status=status,
        reason=reason,
        suite=cell.suite,
        dataset=cell.dataset,
        convention=job.suite.convention,
        teacher=cell.teacher,
        student=cell.student,
        method=cell.label,
        seed=cell.seed,
        epochs=cell.epochs,
        quick=cell.quick,
        settings=dict(cell.settings),
        settings_hash=cell.hash,
        teacher_sha256=card.sha256 if card else "",
        teacher_top1=card.top1 if card else None,
        assistant_sha256=assistant,
        provenance=method.provenance,
        modified_student=method.modifies_student(),
        code=environment.code(),
        environment=environment.describe(job.device) | {"data": images.fingerprint},
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **seen,
    )
