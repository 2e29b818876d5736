"""Small lanes on random images of CIFAR's size, for checks that need no data and no network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdbench import models, registry
from kdbench.data import Loader
from kdbench.distiller import Pair
from kdbench.engine.fit import Setting, look
from kdbench.engine.graph.backend import Eager, Graphs, Machine
from kdbench.engine.graph.train_step import Captured
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan

BATCH, STEPS, TAIL, CLASSES = 64, 3, 16, 100
IMAGES = BATCH * STEPS + TAIL
EPOCHS = 3
#: All of the acceptance, CRD's branch that draws, and what weighs every pair of layers.
METHODS = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst", "ft", "crd", "dkd", "semckd")
T = TypeVar("T")


class Called(Eager):
    """For the CPU: what it records is called at every repeat. So the code around graphs runs without one."""

    captures = True

    def record(self, step: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """There is no first run, so there is no result: nobody in here asks for it."""
        return step, None  # type: ignore[return-value]


def machine_on(device: torch.device) -> Machine:
    """What repeats steps there."""
    return Graphs(device) if device.type == "cuda" else Called()


def loader(device: torch.device, images: int = IMAGES, batch: int = BATCH, seed: int = 0) -> Loader:
    """Random pictures, crops and flips."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.arange(images) % CLASSES
    usual: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_padding": 4, "flip": True}
    return Loader(pixels, labels, batch_size=batch, device=device, **usual)


def teacher(device: torch.device, name: str = "resnet14") -> models.Tapped:
    """A network of random weights, folded."""
    torch.manual_seed(0)
    return models.fold(models.create(name, CLASSES)).to(device)


def lane(
    name: str,
    device: torch.device,
    *,
    precision: str = "fp32",
    student: str = "resnet8",
    tutor: str = "resnet14",
    images: int = IMAGES,
    **hyper: Any,
) -> Lane:
    """A lane of a method at its start; the same one whenever it is asked for. It saves nothing."""
    torch.manual_seed(1)
    net = models.create(student, CLASSES)
    who = teacher(torch.device("cpu"), tutor)
    pair = pair_of(net, who, images)
    torch.manual_seed(2)
    made = Lane(
        name,
        net,
        registry.get(name).build(pair, **hyper),
        Plan(EPOCHS, 0.02, milestones=(2,)),
        seed=3,
        path=Path(f"{name}.ckpt"),
        settings="",
        teacher="",
        device=device,
        precision=Precision(precision),
    )
    who.to(device)  # methods such as simkd read its head where it is
    made.start_epoch()
    return made


def pair_of(student: models.Tapped, tutor: models.Tapped, images: int) -> Pair:
    """What a method is built for, on the CPU."""
    return models.make_pair(
        student,
        tutor,
        image_shape=(3, 32, 32),
        num_classes=CLASSES,
        train_labels=torch.arange(images) % CLASSES,
        batch_size=BATCH,
    )


def setting(device: torch.device, feed: Loader, precision: str = "fp32", tutor: str = "resnet14") -> Setting:
    """What the lanes share; products are taken in this precision from now on."""
    Precision(precision).prepare(device)
    return Setting(teacher(device, tutor), feed, lambda: feed.plain(100), device, Precision(precision))


def captured(lanes: list[Lane], feed: Loader, where: Setting, machine: Machine | None = None) -> Captured:
    """Their step, captured.

    Raises:
        AssertionError: one of them stays outside, with the reason.
        CannotCapture: none can be in.
    """
    notes: list[str] = []
    show: Callable[[Tensor], Any] = partial(look, where)
    made = Captured(feed, lanes, "train", show=show, machine=machine or machine_on(where.device), note=notes.append)
    if notes:
        raise AssertionError("; ".join(notes))
    return made
