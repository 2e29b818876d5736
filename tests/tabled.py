"""A teacher's table in tests: a teacher that counts its passes, the table of its outputs, lanes that read it."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import training
from torch import Tensor, nn
from training import CPU, Result, result, teacher

from kdbench import Outputs, models, registry
from kdbench.data import Loader
from kdbench.engine import fit as engine
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import Place

IMAGES, VIEWS = 56, 18
FEW = 24  # images: a whole batch and a short one
BELOW_MAPS = [
    name
    for name in registry.names()
    if registry.get(name).reads != "maps" and registry.get(name).needs_teacher and not registry.get(name).views
]


def loader(count: int = IMAGES, *, flip: bool = True, **changes: Any) -> Loader:
    return training.loader(count, flip=flip, **changes)


class Counted(nn.Module):
    """A teacher that counts its passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, image: Tensor) -> Outputs:
        self.passes += 1
        seen: Outputs = self.net(image)
        return seen


class Sized(nn.Module):
    """Answers otherwise in a batch of another size."""

    def forward(self, image: Tensor) -> Outputs:
        seen: Outputs = models.fold(teacher())(image)
        return seen._replace(logits=seen.logits + len(image))


def setting(feed: Loader, net: nn.Module | None = None, precision: str = "fp32") -> engine.Setting:
    counted = Counted(net or models.fold(teacher())).eval()
    return engine.Setting(counted, feed, lambda: [next(iter(feed.plain(64)))], CPU, Precision(precision))


def passes(shared: engine.Setting) -> int:
    assert isinstance(shared.teacher, Counted)
    return shared.teacher.passes


def place(folder: Path, **facts: object) -> Place:
    return Place(folder / "tables", "digits-resnet14", facts)


def open_table(
    folder: Path, shared: engine.Setting, create: str | None = "pooled", told: list[str] | None = None
) -> TeacherTable | None:
    told = [] if told is None else told
    assert isinstance(shared.train, Loader)
    return TeacherTable.opened(place(folder), shared.train, partial(engine.look, shared), told.append, create=create)


def lane(name: str, folder: Path, feed: Loader, student: str = "resnet8") -> Lane:
    return training.lane(name, folder, student=student, labels=feed.labels)


def supported(name: str, folder: Path, feed: Loader) -> Lane:
    """``lane``; a method that refuses the pair skips the test."""
    return training.supported(name, folder, labels=feed.labels)


@cache
def live_result(name: str) -> Result:
    """What a lane becomes that hears the teacher itself, on few images; where the pair is refused, the test is skipped."""
    with TemporaryDirectory() as folder:
        one = supported(name, Path(folder), loader(FEW))
        train(setting(loader(FEW)), one)
        return result(one)


def train(shared: engine.Setting, *lanes: Lane) -> None:
    training.train(lanes, shared)
