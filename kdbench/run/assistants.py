"""Assistants: networks between teacher and student, distilled first and then kept like teachers.

An assistant is a cell as any other - method, teacher, wider student, seed - in a folder of its own:
``<out>/assistants`` is laid out as every output folder, so it is locked, resumed and read like one
(`kdbench report --out results/assistants` shows what its assistants are worth).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench import record, registry
from kdbench.run import grid
from kdbench.utils.files import content

if TYPE_CHECKING:
    from kdbench.data import Dataset
    from kdbench.models import Tapped
    from kdbench.models.teachers import TeacherCard
    from kdbench.run.grid import Cell


class Refused(ValueError):
    """There is no such assistant for this student; the sentence is the cell's in the table."""


def folder(out: Path) -> Path:
    """Where the assistants of an output folder lie.

    >>> folder(Path("results")).as_posix()
    'results/assistants'
    """
    return out / "assistants"


def network(method: str, student: str) -> tuple[str, str] | None:
    """(method that distils the assistant, its network) of a method's student; None: it needs none.

    Raises:
        Refused: the student has no such relative, or the class asks for what is no assistant.

    >>> network("hkd", "resnet8x4"), network("kd", "resnet8x4")
    (('pkt', 'resnet8x4_double'), None)
    """
    asked = registry.get(method).assistant
    if asked is None:
        return None
    by, how = asked
    if how != "double":
        raise Refused(
            f"{method} asks for a teacher assistant {how!r}; there is 'double', the student at twice its width"
        )
    try:
        maker = registry.get(by)
        if maker.assistant is not None or maker.modifies_student():
            raise ValueError(
                f"{by} cannot distil a teacher assistant: it changes the network or needs a teacher assistant itself"
            )
        from kdbench import models

        return by, models.double(student)
    except ValueError as error:
        raise Refused(f"{method} has no teacher assistant for {student}: {error}") from error


def of(cells: Iterable[Cell]) -> list[Cell]:
    """Every assistant that these cells learn from, once."""
    return list(dict.fromkeys(cell.assistant for cell in cells if cell.assistant is not None))


def missing(out: Path, cells: Iterable[Cell], *, retry_failed: bool = False) -> list[Cell]:
    """Those of the assistants that a run has to train."""
    again = {"missing", "running", "unsupported"} | ({"failed"} if retry_failed else set())
    return [cell for cell in of(cells) if grid.state(folder(out), cell) in again]


def find(out: Path, pupil: Cell, card: TeacherCard, images: Dataset) -> tuple[Tapped, str]:
    """The assistant of a cell, in eval mode, frozen, on the CPU, and the sha256 of its weights. Draws no random number.

    Args:
        out: the run's output folder.
        pupil: the cell that learns from it.
        card: of the teacher that it must have been distilled from.
        images: what it is for.

    Raises:
        Refused: there is none for this student, or its own method refused it.
        ValueError: it failed, a file is damaged or gone, or it comes from another teacher.
    """
    network(pupil.method, pupil.student)
    cell = pupil.assistant
    assert cell is not None
    where = grid.files(folder(out), cell)
    anew = f"remove {where.record} to train it anew"
    if not where.record.is_file():
        made = record.read(where.failed) if where.failed.is_file() else None
        if made is not None and made.status == "unsupported":
            raise Refused(f"its teacher assistant, {cell}, cannot be had: {made.reason}")
        reason = made.reason if made is not None else "it has no record"
        raise ValueError(f"its teacher assistant, {cell}, failed: {reason} (--retry-failed tries again)")
    try:
        made = record.read(where.record)
    except record.RecordDamaged as error:
        raise ValueError(f"the teacher assistant's record is damaged: {error}; {anew}") from error
    if made.teacher_sha256 != card.sha256:
        raise ValueError(
            f"the teacher assistant {cell} was distilled from another teacher {cell.teacher}"
            f" ({made.teacher_sha256[:8]}, here {card.sha256[:8]}); restore that teacher, or {anew}"
        )
    tapped = _network(where.student, cell.student, images, anew)
    from kdbench.engine.checkpoint import state_sha256

    sha256 = state_sha256(tapped.state_dict())
    if sha256 != made.weights_sha256:
        raise ValueError(
            f"{where.student} is not the teacher assistant of its record: sha256 {sha256[:12]}, the record has"
            f" {made.weights_sha256[:12]}; restore it, or {anew}"
        )
    return tapped.eval().requires_grad_(False), sha256


def _network(weights: Path, name: str, images: Dataset, anew: str) -> Tapped:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from kdbench.run.networks import network as made

    with torch.random.fork_rng(devices=[]):  # the first weights of the network are overwritten
        tapped = made(name, images.num_classes, image_size=images.image_shape[-1], pretrained=False)
    try:
        state = from_bytes(content(weights))
        tapped.load_state_dict({key.removeprefix("student."): value for key, value in state.items()})
    except FileNotFoundError:
        raise ValueError(f"the teacher assistant's weights {weights} are gone; restore them, or {anew}") from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"the teacher assistant's weights {weights} do not fit: {error}; restore them, or {anew}"
        ) from error
    return tapped
