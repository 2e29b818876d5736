"""Finetune: the whole student, with a new last layer, trained for a few epochs on other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator

from kdbench import models, registry
from kdbench.data import Dataset
from kdbench.engine.checkpoint import CheckpointDamaged, CheckpointForeign
from kdbench.engine.fit import Setting, fit
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.models import Tapped
from kdbench.probes.linear import is_light
from kdbench.probes.other_data import USUAL, canonical_names, fetch, short
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.record import settings_hash
from kdbench.run import batches
from kdbench.run.outcome import Teller
from kdbench.utils.seeding import stable_seed


class FinetuneSettings(Settings):
    """How the student is trained on each of ``data``: SGD with momentum .9, cosine schedule, crop and flip.

    ``light_lr`` is for MobileNets and ShuffleNets; ``limit_train``: so many training images at most, 0: all.
    """

    data: tuple[str, ...] = USUAL
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    lr: Annotated[float, Field(gt=0, le=100)] = 0.01
    light_lr: Annotated[float, Field(gt=0, le=100)] = 0.005
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 64
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    flip: bool = True
    limit_train: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    _names = field_validator("data")(canonical_names)


def finetune(
    net: Tapped,
    other: Dataset,
    *,
    epochs: int = 5,
    lr: float = 0.01,
    batch_size: int = 64,
    weight_decay: float = 5e-4,
    flip: bool = True,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: Path,
    note: Callable[[str], None] = lambda sentence: None,
) -> list[dict[str, Any]]:
    """Train a copy of a network with a fresh last layer on other data; the engine of runs does it.

    Args:
        net: trained; stays as it is.
        other: images of the size that the network sees.
        epochs: length of the training.
        lr: rate at its begin; it falls along a cosine.
        batch_size: images of a batch.
        weight_decay: of all parameters.
        flip: whether images are mirrored at random.
        mean: what the images are normalised with, for each channel.
        std: the same.
        seed: of the fresh layer and the batches.
        device: where it trains.
        checkpoint: where an interrupted training goes on from; it is taken away in the end.
        note: told what there is to say.

    Returns:
        The curve, as a record has it: ``epoch``, ``lr``, ``terms``, and ``top1`` in percent.

    Raises:
        ValueError: training diverged, or the data have one class.

    >>> from kdbench.data import limit, load
    >>> net = models.create("resnet8", 5, image_size=8)
    >>> curve = finetune(net, limit(load("digits"), 100), epochs=1, checkpoint=Path("interrupted.ckpt"))
    >>> [(point["epoch"], point["lr"], list(point["terms"])) for point in curve]
    [(1, 0.01, ['ce'])]
    """
    if other.num_classes < 2:
        raise ValueError(f"{other.name} has one class; a network learns to tell two or more apart")
    where = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(seed, "finetune"))
        fresh = with_new_head(net, other.num_classes, other.image_shape[-1])
        pair = models.make_pair(
            fresh,
            fresh,
            image_shape=other.image_shape,
            num_classes=other.num_classes,
            train_labels=other.train_labels,
            batch_size=batch_size,
        )
        method = registry.get("student").build(pair)
    recipe = {
        "batch_size": batch_size,
        "mean": list(mean),
        "std": list(std),
        "crop_padding": other.image_shape[-1] // 8,
        "flip": flip,
    }
    told = {"epochs": epochs, "lr": lr, "weight_decay": weight_decay, "seed": seed, **recipe}
    lane = Lane(
        f"{net.name} on {short(other.name)}",
        fresh,
        method,
        Plan(epochs, lr, weight_decay=weight_decay, schedule="cosine"),
        seed=stable_seed(seed, "finetune lane"),
        path=checkpoint,
        settings=settings_hash(told),
        teacher="",
        device=where,
        precision=Precision(),
        data=other.fingerprint,
    )
    loader = batches.make_loader(other, recipe, seed=stable_seed(seed, "finetune data"), device=where)
    test = batches.test_batches(other, recipe, where)
    try:
        lane.resume()
    except (CheckpointDamaged, CheckpointForeign) as error:
        checkpoint.unlink(missing_ok=True)
        note(f"{error}; it is trained anew")
    if not lane.done:
        setting = Setting(None, loader, lambda: test, where, Precision(), note=note, fold=models.fold)
        fit(setting, [lane], Teller(lambda event: None), finish=lambda lane: None)
    if lane.failure:
        raise ValueError(f"it could not be trained: {lane.failure}")
    checkpoint.unlink(missing_ok=True)
    return lane.curve


def with_new_head(net: Tapped, num_classes: int, side: int) -> Tapped:
    """A copy whose last layer is fresh; the layers whose shape depends on the number of classes are the last."""
    fresh = models.create(net.name, num_classes, image_size=side, pretrained=False)
    more = models.create(net.name, num_classes + 1, image_size=side, pretrained=False).state_dict()
    head = {key for key, value in fresh.state_dict().items() if value.shape != more[key].shape}
    body = {key: value for key, value in net.state_dict().items() if key not in head}
    absent = fresh.load_state_dict(body, strict=False)
    if set(absent.missing_keys) != head or absent.unexpected_keys:
        raise ValueError(f"{net.name} at {side} px is another network than the one that was kept")
    return fresh


def _measure(subject: Subject, settings: FinetuneSettings, context: Context) -> Found:
    other = _data(settings, subject, context)
    identity = {"net": subject.sha256, **settings.model_dump()}
    target = subject.target
    path = target.file("finetune", settings_hash(identity)).with_suffix(".ckpt")
    notes: list[str] = []
    curve = finetune(
        subject.net,
        other,
        epochs=settings.epochs,
        lr=settings.light_lr if is_light(subject.net.name) else settings.lr,
        batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        flip=settings.flip,
        mean=tuple(subject.recipe["mean"]),
        std=tuple(subject.recipe["std"]),
        seed=settings.seed,
        device=subject.device,
        checkpoint=path,
        note=notes.append,
    )
    summary: dict[str, float | None] = {"top-1 (%)": float(curve[-1]["top1"])}
    return Found(summary, [_row(point) for point in curve], notes=notes)


def _row(point: Mapping[str, Any]) -> dict[str, bool | int | float | str | None]:
    return {"epoch": point["epoch"], "lr": point["lr"], "loss": sum(point["terms"].values()), "top1": point.get("top1")}


def _data(settings: FinetuneSettings, subject: Subject, context: Context) -> Dataset:
    return fetch(settings.data[0], "finetune.data", subject.images.image_shape[-1], settings.limit_train, context)


PROBE = Probe(
    "finetune",
    FinetuneSettings,
    _measure,
    spread=lambda settings, context: [settings.model_copy(update={"data": (name,)}) for name in settings.data],
    rests_on=lambda settings, subject, context: {"transfer data": _data(settings, subject, context).fingerprint},
    variant=lambda settings: f"{short(settings.data[0])}, {settings.epochs} epochs",
)
