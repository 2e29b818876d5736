"""`kdbench eval`: kept students are loaded, measured again and compared with their records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdbench import data, environment, group, models, record, session, teaching
from kdbench.data import Dataset
from kdbench.distiller import Distiller, Outputs
from kdbench.engine.evaluate import measure
from kdbench.engine.lane import state_sha256
from kdbench.engine.precision import Precision
from kdbench.grid import Cell
from kdbench.models import Tapped, teachers
from kdbench.record import Record
from kdbench.registry import Spec

#: Points by which another device or another torch may move an accuracy.
CLOSE = 0.2


class Verdict(NamedTuple):
    """What became of one student: equal to its record, close on another machine, or wrong."""

    what: str
    verdict: Literal["equal", "close", "wrong"]
    sentence: str


def students(out: Path, suites: Sequence[str], data_dir: Path | None, device: str) -> Iterator[Verdict]:
    """Every kept student of an output folder (of these suites, when some are named), one by one.

    Raises:
        ValueError: there is none, or no such device.
    """
    where = torch.device(session.choose_device(device))
    torch.set_num_threads(1)
    found = [
        path for path in sorted((out / "students").glob("*/*/*.safetensors")) if not suites or path.parts[-3] in suites
    ]
    if not found:
        of = f" of suite {' or '.join(suites)}" if suites else ""
        raise ValueError(f"no kept students{of} in {out / 'students'}; `kdbench run` keeps those that it trains")
    for path in found:
        relative = path.relative_to(out / "students").with_suffix(".json")
        what = str(relative.with_suffix(""))
        try:
            one = record.read(out / "runs" / relative)
        except FileNotFoundError:
            yield Verdict(what, "wrong", "it has no record: its run was not finished, or the record was removed")
            continue
        except record.RecordDamaged as error:
            yield Verdict(what, "wrong", str(error))
            continue
        what = f"{one.method} on {one.pair}, seed {one.seed}"
        try:
            yield _compare(what, one, path, out, data_dir, where)
        except (ValueError, FileNotFoundError, SafetensorError) as error:
            yield Verdict(what, "wrong", " ".join(str(error).split()))


def _compare(what: str, one: Record, path: Path, out: Path, data_dir: Path | None, device: torch.device) -> Verdict:
    """Raises: ValueError, FileNotFoundError: data, teacher or method are not there, or the file does not fit."""
    images = _images(one.dataset, data_dir, one.settings["limit_train"])
    if images.fingerprint != one.environment["data"]:
        return Verdict(what, "wrong", f"the data {one.dataset} here are not those it was measured on")
    state = load_file(path)
    student = models.create(one.student, images.num_classes, image_size=images.image_shape[-1], pretrained=False)
    student.load_state_dict(_part(state, "student.", path))
    if state_sha256(student.state_dict()) != one.weights_sha256:
        return Verdict(what, "wrong", f"{path.name} does not hold the weights that the record was measured with")
    method = _method(one, student, images, out, _part(state, "method.", path)) if one.modified_student else None
    precision = Precision(one.settings["precision"])
    precision.check(device)
    precision.prepare(device)
    # The memory format that the engine trains in.
    student = student.eval().to(device).to(memory_format=torch.channels_last)
    method = None if method is None else method.eval().to(device)
    top1 = _top1(models.fold(student), method, one, images, device)
    if top1 != one.top1_last and _top1(student, method, one, images, device) == one.top1_last:
        top1 = one.top1_last  # measured before the engine folded students: a tie can fall the other way
    said = f"{top1:.2f}%"
    if top1 == one.top1_last:
        return Verdict(what, "equal", f"{said}, as recorded")
    same = {"torch": torch.__version__, "device": str(device), "cpu": environment.cpu_name()}
    moved = [name for name, here in same.items() if one.environment.get(name) != here]
    near = moved and abs(top1 - (one.top1_last or 0.0)) <= CLOSE
    why = f" (another {', '.join(moved)})" if moved else ""
    return Verdict(what, "close" if near else "wrong", f"{said}, the record has {one.top1_last:.2f}%{why}")


@lru_cache(maxsize=1)
def _images(name: str, data_dir: Path | None, limit: int | None) -> Dataset:
    whole = data.load(name, data_dir)
    return whole if limit is None else data.limit(whole, limit)


def _part(state: dict[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not part:
        raise ValueError(f"{path.name} has no weights of the {prefix[:-1]}")
    return part


def _method(one: Record, student: Tapped, images: Dataset, out: Path, state: dict[str, Tensor]) -> Distiller:
    """The method's modules, which the evaluated network of this row needs."""
    teacher = _teacher(one, out / "teachers", images.image_shape[-1])
    pair = models.make_pair(
        student,
        teacher,
        image_shape=images.image_shape,
        num_classes=images.num_classes,
        train_labels=images.train_labels,
        batch_size=one.settings["recipe"]["batch_size"],
    )
    spec = Spec(one.settings["method"])
    cell = Cell(one.suite, one.dataset, one.teacher, one.student, spec, one.seed, one.epochs, one.quick, one.settings)
    method = group.build(cell, pair)
    method.load_state_dict(state)
    return method


def _teacher(one: Record, folder: Path, image_size: int) -> Tapped:
    """The teacher of a record, by its hash."""
    usual = teachers.path(folder, one.dataset, one.teacher)
    main = usual.stem
    for card in sorted(usual.parent.glob(f"{main}*.json")):
        try:
            found = json.loads(card.read_text(encoding="utf-8"))["sha256"]
        except (ValueError, KeyError, TypeError):
            continue
        if found == one.teacher_sha256:
            variant = card.stem.removeprefix(main)
            given = one.settings["recipe"]["mean"], one.settings["recipe"]["std"]
            return teachers.load(
                folder, one.dataset, one.teacher, variant=variant, image_size=image_size, normalisation=given
            )[0]
    raise ValueError(
        f"its teacher {one.teacher} ({one.teacher_sha256[:8]}) is not in {folder}, and {one.method} predicts with it"
    )


@torch.no_grad()
def _top1(student: Tapped, method: Distiller | None, one: Record, images: Dataset, device: torch.device) -> float:
    logits, labels = [], []
    for image, label in teaching.test_batches(images, one.settings["recipe"], device):
        with Precision(one.settings["precision"]).autocast(device):
            seen: Outputs = student(image)
            shown = seen.logits if method is None else method.predict(seen)
        logits.append(shown.float())
        labels.append(label)
    return measure(torch.cat(logits), torch.cat(labels))["top1"]
