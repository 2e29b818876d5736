"""Kept students, their data, teacher and method, loaded again from what a run left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from kdbench import data, models, registry
from kdbench.data import Dataset
from kdbench.distiller import Distiller
from kdbench.engine.checkpoint import beside_sha256
from kdbench.models import Tapped, teachers
from kdbench.models.entered import as_it_was
from kdbench.models.teachers import TeacherCard
from kdbench.record import Record


@lru_cache(maxsize=1)
def images(name: str, data_dir: Path | None, limit: int | None, side: int | None = None) -> Dataset:
    """The data set of a record, in memory; the last one asked for is kept. ``side``: of what networks see.

    Raises:
        ValueError: it is not there, or does not fit into memory.

    >>> images("digits", None, 100).num_classes
    10
    """
    whole = data.choose(name, data_dir, source="resident")
    if side not in (None, whole.image_shape[-1]):
        whole = replace(whole, side=side)
    return whole if limit is None else data.limit(whole, limit)


def part(state: dict[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it.

    Raises:
        ValueError: there is none.

    >>> import torch
    >>> part({"student.a": torch.zeros(2), "method.b": torch.zeros(3)}, "student.", Path("x"))
    {'a': tensor([0., 0.])}
    """
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"{path.name} has no weights of the {prefix[:-1]}")
    return found


def check(one: Record, state: dict[str, Tensor], name: str, *, believed: bool = False) -> None:
    """What is kept beside a student, and the code of a network of the user's, are those that the record was made with.

    Older records do not know of the first. `kdbench eval`, which measures anew, asks for the second where it matters.

    Raises:
        ValueError: they are not.

    >>> from types import SimpleNamespace as Facts
    >>> check(Facts(kept_sha256="0" * 64, method="simkd"), {}, "simkd-s0.safetensors")
    Traceback (most recent call last):
    ValueError: simkd-s0.safetensors does not hold the parts of simkd that the record was measured with
    """
    if one.kept_sha256 and beside_sha256(state) != one.kept_sha256:
        raise ValueError(f"{name} does not hold the parts of {one.method} that the record was measured with")
    if not believed and (changed := network_changed(one)):
        raise ValueError(changed)


def filled(net: Tapped, state: dict[str, Tensor], name: str) -> None:
    """Put a kept student's weights into its network.

    Raises:
        ValueError: they are of another network.

    >>> filled(models.create("resnet8", 10), {}, "kd-s0.safetensors")
    Traceback (most recent call last):
    ValueError: kd-s0.safetensors holds weights of another network than resnet8: Missing key(s) in state_dict: ...
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).partition(":\n")[2].split())[:300]
        raise ValueError(f"{name} holds weights of another network than {net.name}: {why}") from error


def network_changed(one: Record) -> str:
    """That a student is a network of the user's whose code is another than then; "": it is not."""
    try:
        as_it_was(one.student, one.settings.pretrained, f"{one.method} on {one.pair}, seed {one.seed}")
    except ValueError as error:
        return str(error)
    return ""


def method_changed(one: Record) -> str:
    """That the method is a plug-in whose code is another than then; "": it is not, or it is not loaded.

    >>> from types import SimpleNamespace as Facts
    >>> method_changed(Facts(plugin_sha256="", settings=Facts(method="simkd")))
    ''
    """
    try:
        now = registry.source_sha256(one.settings.method) if one.plugin_sha256 else ""
    except ValueError:  # who needs it says so
        return ""
    if now == one.plugin_sha256:
        return ""
    return (
        f"the plug-in of {one.method} is another than its record was made with (sha256 {one.plugin_sha256[:8]}, now"
        f" {now[:8]}): restore its file, or train it anew with --force"
    )


def method(
    one: Record, student: Tapped, images: Dataset, out: Path, state: dict[str, Tensor], *, believed: bool = False
) -> Distiller:
    """The method's modules, which the evaluated network of this row needs.

    Raises:
        ValueError: its teacher is not there, or, unless it is ``believed``, its code is another than then.

    >>> from types import SimpleNamespace as Facts
    >>> one = Facts(dataset="digits", teacher="resnet20", teacher_sha256="0" * 64, method="simkd", plugin_sha256="")
    >>> method(one, None, Facts(image_shape=(3, 8, 8)), Path("nowhere"), {})
    Traceback (most recent call last):
    ValueError: its teacher resnet20 (00000000) is not in nowhere/teachers, and simkd predicts with it
    """
    if not believed and (changed := method_changed(one)):
        raise ValueError(changed)
    mentor = teacher(one, out / "teachers", images.image_shape[-1])
    pair = models.make_pair(
        student,
        mentor,
        image_shape=images.image_shape,
        num_classes=images.num_classes,
        train_labels=data.trained_on(images, one.settings.recipe)[0].train_labels,
        batch_size=one.settings.recipe["batch_size"],
    )
    built = registry.get(one.settings.method).build(pair, **one.settings.hyper)
    built.load_state_dict(state)
    return built


def teacher(one: Record, folder: Path, image_size: int) -> Tapped:
    """The teacher of a record, by its hash.

    >>> from types import SimpleNamespace as Facts
    >>> one = Facts(dataset="digits", teacher="resnet20", teacher_sha256="0" * 64, method="simkd")
    >>> teacher(one, Path("nowhere"), 8)
    Traceback (most recent call last):
    ValueError: its teacher resnet20 (00000000) is not in nowhere, and simkd predicts with it
    """
    try:
        return named_teacher(folder, one.dataset, one.teacher, one.teacher_sha256, image_size)[0]
    except FileNotFoundError as error:
        raise ValueError(f"{error}, and {one.method} predicts with it") from error


def named_teacher(
    folder: Path,
    dataset: str,
    name: str,
    sha256: str,
    image_size: int,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> tuple[Tapped, TeacherCard]:
    """The stored teacher with these weights, and its card; ``normalisation`` as ``teachers.load`` takes it.

    Raises:
        FileNotFoundError: it is not in the folder.
        ValueError: its file is damaged.
    """
    usual = teachers.path(folder, dataset, name)
    main = usual.stem
    for card in sorted(usual.parent.glob(f"{main}*.json")):
        try:
            found = json.loads(card.read_text(encoding="utf-8"))["sha256"]
        except (ValueError, KeyError, TypeError):
            continue
        if found == sha256:
            variant = card.stem.removeprefix(main)
            return teachers.load(
                folder, dataset, name, variant=variant, image_size=image_size, normalisation=normalisation
            )
    raise FileNotFoundError(f"its teacher {name} ({sha256[:8]}) is not in {folder}")
