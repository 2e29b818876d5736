"""Finished teachers on disk: weights, and a card that says what they are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.tapped import Tapped
from kdbench.models.zoo import create
from kdbench.utils import environment
from kdbench.utils.files import atomic_write

__all__ = ["TeacherCard", "load", "match", "path", "read_checkpoint", "round_half", "store"]


class TeacherCard(BaseModel):
    """What is known of a stored teacher; lies beside its weights as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dataset: str
    num_classes: int = Field(ge=1)
    image_size: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the safetensors file
    top1: float | None  # percent on the test set, last epoch; None: not measured
    source: Literal["trained", "imported"]
    dtype: Literal["float16", "float32"]  # of the file; in memory a teacher is float32
    recipe: dict[str, Any]
    origin: str  # file that it was imported from, without its folder
    kdbench: str  # version that wrote it
    created: str  # ISO 8601, UTC


def path(folder: Path, dataset: str, name: str, variant: str = "") -> Path:
    """Where the card lies. It is written last: if it is there, the weights beside it are whole."""
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
) -> TeacherCard:
    """Write ``<folder>/<dataset>/<name><variant>.safetensors`` and its card; replaces what was there.

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

    Raises:
        ValueError: a weight is not finite, or too large for fp16.
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
    )
    where = path(folder, dataset, name, variant)
    where.unlink(missing_ok=True)  # an old card must not vouch for new weights
    with atomic_write(_weights(where)) as file:
        file.write(payload)
    with atomic_write(where, "w") as file:
        file.write(card.model_dump_json(indent=1) + "\n")
    return card


def load(folder: Path, dataset: str, name: str, *, variant: str = "", image_size: int) -> tuple[Tapped, TeacherCard]:
    """The stored teacher: float32, eval mode, frozen, on the CPU. Draws no random number.

    Raises:
        FileNotFoundError: there is none, or one of its two files is missing.
        ValueError: a file is damaged, or the teacher is for another network, data or image size.
    """
    where = path(folder, dataset, name, variant)
    weights = _weights(where)
    if not where.is_file():
        raise FileNotFoundError(
            f"no teacher {name} for {dataset} in {folder}; `kdbench teacher train {name}` makes one and"
            " `kdbench teacher import` takes one over"
        )
    if not weights.is_file():
        raise FileNotFoundError(f"{where} is there, its weights {weights.name} are not; train or import it anew")
    try:
        card = TeacherCard.model_validate_json(where.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} is not a teacher's card: {at + ': ' if at else ''}{first['msg']}") from error
    for what, wanted, found in (
        ("network", name, card.name),
        ("data set", dataset, card.dataset),
        ("image size", image_size, card.image_size),
    ):
        if wanted != found:
            raise ValueError(f"{where} is a teacher for the {what} {found}, not {wanted}")
    payload = weights.read_bytes()
    sha256 = hashlib.sha256(payload).hexdigest()
    if sha256 != card.sha256:
        raise ValueError(
            f"{weights} is not the file its card describes: sha256 {sha256[:12]}, the card has {card.sha256[:12]};"
            " restore it, or remove both to train anew"
        )
    with torch.random.fork_rng(devices=[]):  # the first weights of the network are overwritten
        tapped = create(name, card.num_classes, image_size=image_size)
    try:
        state = match(from_bytes(payload), tapped)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{weights}: {error}") from error
    tapped.net.load_state_dict(state)
    return tapped.eval().requires_grad_(False), card


def round_half(tapped: Tapped) -> None:
    """Round every weight and statistic to its fp16 value, in place; the dtype stays.

    What is measured after this is what ``store`` writes.

    Raises:
        ValueError: a value is too large for fp16.
    """
    with torch.no_grad():
        for key, value in tapped.net.state_dict().items():
            if not value.is_floating_point():
                continue
            rounded = value.half()
            if not rounded.isfinite().all():
                raise ValueError(f"{tapped.name}: {key} has values that fp16 cannot hold")
            value.copy_(rounded)


def _weights(card: Path) -> Path:
    return card.with_suffix(".safetensors")
