"""`kdbench eval`: kept students are loaded, measured again and compared with their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes

from kdbench import models, record
from kdbench.data import Dataset
from kdbench.distiller import Distiller, Outputs
from kdbench.engine.checkpoint import state_sha256
from kdbench.engine.errors import said, text
from kdbench.engine.evaluate import measure, predictions
from kdbench.engine.precision import Precision
from kdbench.models import Tapped
from kdbench.models import teachers as stored
from kdbench.probes import kept
from kdbench.record import Record
from kdbench.run import batches, choices
from kdbench.utils import environment
from kdbench.utils.files import content, trouble
from kdbench.utils.wording import printable

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

    >>> list(students(Path("results"), [], None, "cpu"))
    Traceback (most recent call last):
    ValueError: no kept students in results/students; `kdbench run` keeps those that it trains
    """
    where = torch.device(choices.choose_device(device))
    torch.set_num_threads(1)
    folders = {record.runs_folder(out, name, "t", "s").parent.name for name in suites}
    found = [
        path for path in sorted((out / "students").glob("*/*/*.safetensors")) if not suites or path.parts[-3] in folders
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
        if suites and one.suite not in suites:  # "a b" and "a_b" lie in one folder
            continue
        what = f"{one.method} on {one.pair}, seed {one.seed}"
        try:
            yield _compare(what, one, path, out, data_dir, where)
        except Exception as error:  # a file may hold anything; the others are measured all the same
            if isinstance(error, OSError):
                yield Verdict(what, "wrong", printable(trouble(error)))
                continue
            plain = isinstance(error, ValueError | SafetensorError)
            yield Verdict(what, "wrong", text(error) if plain else said(error))


def unkept(out: Path, suites: Sequence[str]) -> int:
    """Finished cells of an output folder (of these suites, when some are named) whose student does not lie there.

    >>> unkept(Path("results"), [])
    0
    """
    bare = 0
    for path in record.files(out / "runs")[0]:
        student = out / "students" / path.relative_to(out / "runs").with_suffix(".safetensors")
        if path.name.endswith(record.FAILED_SUFFIX) or student.is_file():
            continue
        with suppress(OSError, record.RecordDamaged):  # the report names those that cannot be read
            bare += not suites or record.read(path).suite in suites
    return bare


def teachers(out: Path, data_dir: Path | None, device: str) -> Iterator[Verdict]:
    """Every kept teacher of an output folder, measured again and compared with its card, one by one.

    Raises:
        ValueError: no such device.

    >>> list(teachers(Path("results"), None, "cpu"))
    []
    """
    where = torch.device(choices.choose_device(device))
    torch.set_num_threads(1)
    for path in sorted((out / "teachers").glob("*/*.json")):
        what = f"teacher {path.stem} of {path.parent.name}"
        try:
            yield Verdict(what, *_teacher(out / "teachers", path, data_dir, where))
        except (ValueError, OSError, RuntimeError) as error:
            yield Verdict(what, "wrong", printable(trouble(error) if isinstance(error, OSError) else str(error)))


def _teacher(
    folder: Path, path: Path, data_dir: Path | None, device: torch.device
) -> tuple[Literal["equal", "close", "wrong"], str]:
    card = stored.read_card(path)
    usual = stored.path(folder, card.dataset, card.name)
    if card.top1 is None or card.normalisation is None:
        return "equal", "its card says no accuracy" if card.top1 is None else "its card does not say its normalisation"
    images = kept.images(card.dataset, data_dir, None, card.image_size)
    net, _ = stored.load(
        folder, card.dataset, card.name, variant=path.stem.removeprefix(usual.stem), image_size=card.image_size
    )
    test = batches.test_batches(images, card.normalisation._asdict(), device)
    net = net.to(device).to(memory_format=torch.channels_last)
    top1 = measure(*predictions(net, test, Precision()))["top1"]
    if top1 == card.top1:
        return "equal", f"{top1:.2f}%, as on its card"
    near = abs(top1 - card.top1) <= CLOSE
    return "close" if near else "wrong", f"{top1:.2f}%, its card has {card.top1:.2f}%"


def _compare(what: str, one: Record, path: Path, out: Path, data_dir: Path | None, device: torch.device) -> Verdict:
    """Raises: ValueError, FileNotFoundError: data, teacher or method are not there, or the file does not fit."""
    images = kept.images(one.dataset, data_dir, one.settings.limit_train, one.settings.recipe.get("image_size"))
    if not images.known_as(one.data.get("fingerprint", "")):
        return Verdict(what, "wrong", f"the data {one.dataset} here are not those it was measured on")
    state = from_bytes(content(path))
    kept.check(one, state, path.name, believed=True)
    student = models.create(one.student, images.num_classes, image_size=images.image_shape[-1], pretrained=False)
    kept.filled(student, kept.part(state, "student.", path), path.name)
    if state_sha256(student.state_dict()) != one.weights_sha256:
        return Verdict(what, "wrong", f"{path.name} does not hold the weights that the record was measured with")
    method = None
    if one.modified_student:
        method = kept.method(one, student, images, out, kept.part(state, "method.", path), believed=True)
    precision = Precision(one.settings.precision)
    precision.check(device)
    precision.prepare(device)
    # The memory format that the engine trains in.
    student = student.eval().to(device).to(memory_format=torch.channels_last)
    method = None if method is None else method.eval().to(device)
    top1 = _top1(models.fold(student), method, one, images, device)
    if top1 != one.top1_last and _top1(student, method, one, images, device) == one.top1_last:
        top1 = one.top1_last  # measured before the engine folded students: a tie can fall the other way
    found = f"{top1:.2f}%"
    if top1 == one.top1_last:
        return Verdict(what, "equal", f"{found}, as recorded")
    for changed in (kept.network_changed(one), kept.method_changed(one)):
        if changed:
            return Verdict(what, "wrong", f"{found}, the record has {one.top1_last:.2f}%, and {changed}")
    same = {"torch": torch.__version__, "device": str(device), "cpu": environment.cpu_name()}
    moved = [name for name, here in same.items() if one.environment.get(name) != here]
    near = moved and abs(top1 - (one.top1_last or 0.0)) <= CLOSE
    why = f" (another {', '.join(moved)})" if moved else ""
    return Verdict(what, "close" if near else "wrong", f"{found}, the record has {one.top1_last:.2f}%{why}")


@torch.no_grad()
def _top1(student: Tapped, method: Distiller | None, one: Record, images: Dataset, device: torch.device) -> float:
    logits, labels = [], []
    for image, label in batches.test_batches(images, one.settings.recipe, device):
        with Precision(one.settings.precision).autocast(device):
            seen: Outputs = student(image)
            shown = seen.logits if method is None else method.predict(seen)
        logits.append(shown.float())
        labels.append(label)
    return measure(torch.cat(logits), torch.cat(labels))["top1"]
