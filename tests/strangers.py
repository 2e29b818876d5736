"""Lanes of strangers' classes (tests/hostile) and of ours beside them, on made-up networks and images."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from training import CPU, Result, Silent, lane_of, result

from kdbench import Distiller, Pair, registry
from kdbench.data import Loader
from kdbench.distiller import Shapes
from kdbench.engine.fit import Setting, fit
from kdbench.engine.graph.backend import Machine
from kdbench.engine.lane import Lane
from kdbench.engine.precision import Precision
from kdbench.engine.schedule import Plan
from kdbench.engine.shared import Lasting
from kdbench.testing.toys import Net, Side

BATCH, IMAGES, CLASSES = 16, 40, 5  # a tail batch of 8
TEACHER, STUDENT = Side((6, 8), (1, 2), 8), Side((4, 6), (1, 2), 6)


@cache
def strangers(file: str) -> ModuleType:
    """A file of tests/hostile."""
    path = Path(__file__).parent / "hostile" / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"hostile_{file}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 8, 8), dtype=torch.uint8, generator=rng)
    return images, torch.arange(IMAGES) % CLASSES


@cache
def loader() -> Loader:
    return Loader(*data(), batch_size=BATCH, mean=(0.5,) * 3, std=(0.3,) * 3, crop_padding=1, seed=5)


@cache
def teacher() -> Net:
    torch.manual_seed(0)
    return Net(*TEACHER, CLASSES).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def pair() -> Pair:
    who = teacher()
    last = TEACHER.widths[-1], 4, 4
    sizes = ((TEACHER.widths[0], 8, 8), last), last, TEACHER.d
    ours = ((STUDENT.widths[0], 8, 8), (STUDENT.widths[1], 4, 4)), (STUDENT.widths[1], 4, 4), STUDENT.d
    head = lambda last: who.fc(last.mean(dim=(2, 3)))  # noqa: E731
    return Pair(Shapes(*ours), Shapes(*sizes), head, CLASSES, data()[1], BATCH)


def lane(key: str, method: Distiller, folder: Path, epochs: int = 1) -> Lane:
    torch.manual_seed(1)
    return lane_of(key, Net(*STUDENT, CLASSES), method, folder, plan=Plan(epochs, 0.05))


def good(name: str, folder: Path, epochs: int = 1) -> Lane:
    return lane(name, registry.get(name)(pair()), folder, epochs)


def bad(file: str, folder: Path, *, epochs: int = 1, **words: Any) -> Lane:
    """A lane of a stranger's class; it begins to misbehave when its training begins."""
    method = getattr(strangers(file), file.capitalize())(pair(), **words)
    made = lane("stranger", method, folder, epochs)
    method.armed = True
    return made


def train(lanes: list[Lane], machine: Machine | None = None) -> list[Lane]:
    """As a run does; those that were finished."""
    shared = Setting(
        teacher(),
        loader(),
        lambda: loader().plain(BATCH),
        CPU,
        Precision(),
        machine=machine,
        every=0.0,
        lasting=Lasting({"the training labels": [data()[1]]}),
    )
    finished: list[Lane] = []
    fit(shared, lanes, Silent(), finished.append)
    return finished


@cache
def alone(epochs: int) -> list[Result]:
    """What student and kd become without a stranger."""
    with TemporaryDirectory() as folder:
        lanes = [good(name, Path(folder), epochs) for name in ("student", "kd")]
        train(lanes)
        return [result(one) for one in lanes]
