"""Finished teachers on disk: weights, and a card that says what they are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from kdbench.models import teacher_card
from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.entered import as_it_was
from kdbench.models.renormalise import Normalisation
from kdbench.models.tapped import Tapped
from kdbench.models.teacher_card import DataIdentity, TeacherCard, seal
from kdbench.models.teacher_files import named_weights, tidy, weights_path
from kdbench.models.zoo import create
from kdbench.utils import environment
from kdbench.utils.files import atomic_write, content

__all__ = [
    "DataIdentity",
    "TeacherCard",
    "load",
    "match",
    "path",
    "read_card",
    "read_checkpoint",
    "reseal",
    "round_half",
    "store",
]

read_card = teacher_card.read


def path(folder: Path, dataset: str, name: str, variant: str = "") -> Path:
    """Where the card lies. It is written last: if it is there, the weights that it names are whole.

    >>> path(Path("teachers"), "cifar100", "timm/resnet18").as_posix()
    'teachers/cifar100/timm-resnet18.json'
    """
    of = dataset
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}", of):  # imagefolder:PATH is one folder here, and no path
        slug = re.sub("[^A-Za-z0-9]+", "-", of)[-40:].strip("-")
        of = f"{slug}-{hashlib.sha256(os.fsencode(dataset)).hexdigest()[:12]}".lstrip("-")
    return folder / of / f"{name.replace('/', '-')}{variant}.json"


def store(
    folder: Path,
    model: Tapped | Mapping[str, Tensor],
    *,
    dataset: str,
    name: str,
    num_classes: int,
    image_size: int,
    top1: float | None,
    source: Literal["trained", "imported"],
    recipe: Mapping[str, Any],
    origin: str = "",
    variant: str = "",
    half: bool = True,
    data: DataIdentity | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    precision: str | None = None,
    pretrained: str | None = None,
) -> TeacherCard:
    """Write a teacher's weights, then its card, in the place of what was there.

    The weights' file is named after their hash and the card is renamed into place last: whenever this
    is stopped, the old teacher is whole or the new one is.

    Args:
        folder: root of all teachers.
        model: the network, or its state dict.
        dataset: data set that it was trained on.
        name: canonical name of the architecture.
        num_classes: K.
        image_size: side of the images it was trained on.
        top1: percent on the test set, measured on exactly the weights that are stored.
        source: whether kdbench trained it.
        recipe: settings of its training.
        origin: name of the file that it was imported from.
        variant: suffix that tells it from the data set's main teacher of that name.
        half: round the weights to fp16; call ``round_half`` first to measure what will be stored.
        data: the images that it was trained or measured on.
        mean: with ``std`` its own normalisation, one number per channel each.
        std: see ``mean``.
        precision: in which ``top1`` was measured.
        pretrained: hash of the weights that its training started from; "": it began at random.

    Raises:
        ValueError: a weight is not finite, or too large for fp16.
        OSError: there is no room; the old teacher is as it was.

    >>> from kdbench.models import create
    >>> facts = {"dataset": "digits", "num_classes": 10, "image_size": 8, "source": "trained", "recipe": {}}
    >>> card = store(Path("teachers"), create("resnet8", 10), name="resnet8", top1=97.5, **facts)
    >>> sorted(file.suffix for file in Path("teachers/digits").iterdir())
    ['.json', '.safetensors']
    """
    state = model.net.state_dict() if isinstance(model, Tapped) else model
    dtype = torch.float16 if half else torch.float32
    tensors = {}
    for key, value in state.items():
        kept = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype)
        if not kept.isfinite().all():
            raise ValueError(f"teacher {name}: {key} has values that are not finite{' in fp16' if half else ''}")
        tensors[key] = kept.contiguous().clone()  # channels_last, or shared with another key: neither can be stored
    payload = to_bytes(tensors, {"format": "pt"})
    card = TeacherCard(
        name=name,
        dataset=dataset,
        num_classes=num_classes,
        image_size=image_size,
        sha256=hashlib.sha256(payload).hexdigest(),
        top1=top1,
        source=source,
        dtype="float16" if half else "float32",
        recipe=dict(recipe),
        origin=origin,
        kdbench=environment.code()["kdbench"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=data,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        precision=precision,
        pretrained=pretrained,
    )
    where = path(folder, dataset, name, variant)
    tidy(where)
    before = named_weights(where)
    weights = weights_path(where, card.sha256)
    with atomic_write(weights) as file:
        file.write(payload)
    card = _write_card(where, card)
    if before is not None and before != weights:
        before.unlink(missing_ok=True)
    return card


def load(
    folder: Path,
    dataset: str,
    name: str,
    *,
    variant: str = "",
    image_size: int,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    data: DataIdentity | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Tapped, TeacherCard]:
    """The stored teacher: float32, eval mode, frozen, on the CPU. Draws no random number.

    Args:
        folder: root of all teachers.
        dataset: data set that it is for.
        name: canonical name of the architecture.
        variant: as it was stored.
        image_size: side of the images that it will see.
        normalisation: mean and std of the images that it will be given; where its own differ, it sees
            them in its own terms. None: as they come.
        data: the images here; other ones than it was trained on are refused. None: not compared.
        note: told in a sentence what an old card cannot say.

    Raises:
        FileNotFoundError: there is none, or one of its two files is missing.
        ValueError: a file is damaged or was edited, or the teacher is for another network, data or image size.

    >>> from kdbench.models import create
    >>> facts = {"dataset": "digits", "num_classes": 10, "source": "trained", "recipe": {}}
    >>> _ = store(Path("kept"), create("resnet8", 10), name="resnet8", image_size=8, top1=97.5, **facts)
    >>> teacher, card = load(Path("kept"), "digits", "resnet8", image_size=8)
    >>> teacher.training, card.top1
    (False, 97.5)
    """
    where = path(folder, dataset, name, variant)
    if not where.is_file():
        raise FileNotFoundError(
            f"no teacher {name} for {dataset} in {folder}; `kdbench teacher train {name}` makes one and"
            " `kdbench teacher import` takes one over"
        )
    tidy(where)
    card, weights, payload = _read(where, note)
    for what, wanted, found in (
        ("network", name, card.name),
        ("data set", dataset, card.dataset),
        ("image size", image_size, card.image_size),
    ):
        if wanted != found:
            raise ValueError(f"{where} is a teacher for the {what} {found}, not {wanted}")
    if data is not None and card.data is not None and (other := card.data.differs(data)):
        learned = "trained" if card.source == "trained" else "measured"
        raise ValueError(
            f"the teacher {name} of {where.parent} was {learned} on other data: {other}; restore the data, choose"
            " another --out, or remove the teacher"
        )
    sha256 = hashlib.sha256(payload).hexdigest()
    if sha256 != card.sha256:
        raise ValueError(
            f"{weights} is not the file its card describes: sha256 {sha256[:12]}, the card has {card.sha256[:12]};"
            " restore it, or remove both to train anew"
        )
    as_it_was(name, card.pretrained or "", f"the teacher {name} of {where.parent}")
    with torch.random.fork_rng(devices=[]):  # the first weights of the network are overwritten
        tapped = create(name, card.num_classes, image_size=image_size, pretrained=False)
    try:
        state = match(from_bytes(payload), tapped)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{weights}: {error}") from error
    tapped.net.load_state_dict(state)
    tapped.pretrained = card.pretrained or ""
    if normalisation is not None and card.normalisation is not None:
        tapped.show_in_own_terms(Normalisation.of(*normalisation), card.normalisation)
    return tapped.eval().requires_grad_(False), card


def reseal(folder: Path, card: TeacherCard, known: Mapping[str, Any], *, variant: str = "") -> TeacherCard:
    """Write a card of an older format anew, sealed, with what is ``known`` of the teacher by now, by field.

    >>> from kdbench.models import create
    >>> facts = {"dataset": "digits", "num_classes": 10, "source": "trained", "recipe": {}}
    >>> old = store(Path("old"), create("resnet8", 10), name="resnet8", image_size=8, top1=None, **facts)
    >>> reseal(Path("old"), old, {"top1": 97.5}).top1
    97.5
    """
    return _write_card(path(folder, card.dataset, card.name, variant), card.model_copy(update=known))


def round_half(tapped: Tapped) -> None:
    """Round every weight and statistic to its fp16 value, in place; the dtype stays.

    What is measured after this is what ``store`` writes.

    Raises:
        ValueError: a value is too large for fp16.

    >>> from kdbench.models import create
    >>> net = create("resnet8", 10)
    >>> round_half(net)
    >>> all(bool((weight.half() == weight).all()) for weight in net.parameters())
    True
    """
    with torch.no_grad():
        for key, value in tapped.net.state_dict().items():
            if not value.is_floating_point():
                continue
            rounded = value.half()
            if not rounded.isfinite().all():
                raise ValueError(f"{tapped.name}: {key} has values that fp16 cannot hold")
            value.copy_(rounded)


def _read(where: Path, note: Callable[[str], None] | None) -> tuple[TeacherCard, Path, bytes]:
    """Card, and path and content of its weights, also while another process replaces the teacher."""
    for _ in range(2):
        card = read_card(where, note=note)
        for weights in (weights_path(where, card.sha256), where.with_suffix(".safetensors")):
            with suppress(FileNotFoundError):
                return card, weights, content(weights)
    raise FileNotFoundError(
        f"{where} is there, its weights {weights_path(where, card.sha256).name} are not; train or import it anew"
    )


def _write_card(where: Path, card: TeacherCard) -> TeacherCard:
    sealed = seal(card)
    with atomic_write(where, "w") as file:
        file.write(teacher_card.text(sealed))
    return sealed
