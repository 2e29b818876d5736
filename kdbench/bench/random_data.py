"""Random pictures and a teacher of random weights: a run whose time is real and whose results mean nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from kdbench import models
from kdbench.data import Dataset
from kdbench.models import teachers as stored
from kdbench.run import teachers
from kdbench.suites import Suite

TRAIN, TEST = 50_000, 10_000


def pictures(suite: Suite, train: int = TRAIN, test: int = TEST) -> Dataset:
    """As many of the suite's size as CIFAR-100 has; the same ones every time."""
    draw, side = torch.Generator().manual_seed(0), suite.image_size

    def part(count: int) -> torch.Tensor:
        return torch.randint(256, (count, 3, side, side), generator=draw, dtype=torch.uint8)

    classes = tuple(f"random {number}" for number in range(suite.num_classes))
    labels = [torch.arange(count) % suite.num_classes for count in (train, test)]
    return Dataset(suite.dataset, part(train), labels[0], part(test), labels[1], classes)


def keep_teacher(out: Path, suite: Suite, name: str, images: Dataset) -> None:
    """A teacher that knows nothing, where a run looks for one."""
    torch.manual_seed(0)
    stored.store(
        out / "teachers",
        models.create(name, suite.num_classes, image_size=suite.image_size),
        dataset=suite.dataset,
        name=name,
        num_classes=suite.num_classes,
        image_size=suite.image_size,
        top1=None,
        source="trained",
        recipe={},
        data=teachers.identity(images),
        mean=suite.recipe.mean,
        std=suite.recipe.std,
    )
