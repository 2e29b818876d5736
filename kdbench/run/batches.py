"""A suite's data as batches: for training, with the recipe's augmentation; in order, for whatever is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench import data as sets
from kdbench.data import Dataset, DataSource, Loader
from kdbench.data.loader import Plain
from kdbench.suites import Suite

#: Pixels of a batch of test images on the CPU, 64 images of CIFAR: the caches hold more of a small batch's maps.
TEST_PIXELS = 64 * 32 * 32
#: Settings of a recipe that a loader takes by the same names; left out where they are off.
OPTIONAL = ("augment", "mixup", "cutmix", "random_erasing", "input_noise", "salt_and_pepper", "noise_side")


def images(
    suite: Suite,
    data_dir: Path | None,
    limit: int | None = None,
    *,
    source: str = "auto",
    workers: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Dataset:
    """The suite's data; of the training images the first ``limit`` where one is given.

    ``source`` and ``workers`` as for ``kdbench.data.choose``. Pictures of another size than the suite's are cut or
    scaled to it where the recipe says how: larger ones are cropped, ``augment`` rrc scales.

    Raises:
        ValueError: they are not there, or not what the suite says they are.

    >>> from kdbench import suites
    >>> len(images(suites.load("digits"), None, limit=64).train_labels)
    64
    """
    found = sets.choose(suite.dataset, data_dir, source=source, workers=workers, say=say)
    said, here = (suite.num_classes, suite.image_size), (found.num_classes, found.image_shape[-1])
    scaled = suite.recipe.augment.startswith("rrc") and suite.teacher.augment.startswith("rrc")
    if said[0] != here[0] or not (said[1] <= here[1] or scaled):
        raise ValueError(
            f"suite {suite.name} says num_classes = {said[0]} and image_size = {said[1]}, but {suite.dataset} has"
            f" {here[0]} classes and images of {here[1]} px; correct the suite, or --set both"
        )
    if said[1] != here[1]:
        found = replace(found, side=said[1])
    return found if limit is None else sets.limit(found, limit)


def make_loader(
    data: Dataset, recipe: dict[str, Any], *, seed: int, device: torch.device, views: tuple[str, ...] = ()
) -> Loader:
    """The training batches of one recipe.

    >>> from kdbench import suites
    >>> suite = suites.load("digits")
    >>> wanted = suite.recipe.model_dump()
    >>> len(make_loader(images(suite, None), wanted, seed=0, device=torch.device("cpu"))), wanted["batch_size"]
    (16, 64)
    """
    return Loader(
        data.train_images,
        data.train_labels,
        batch_size=recipe["batch_size"],
        mean=recipe["mean"],
        std=recipe["std"],
        crop_padding=recipe["crop_padding"],
        flip=recipe["flip"],
        seed=seed,
        device=device,
        views=views,
        size=data.side,
        num_classes=data.num_classes,
        workers=data.workers,
        **{name: recipe[name] for name in OPTIONAL if name in recipe},
    )


def test_batches(data: Dataset, recipe: dict[str, Any], device: torch.device) -> Plain:
    """The test images in order, normalised, without augmentation; they lie on the device as long as this is held.

    >>> from kdbench import suites
    >>> suite = suites.load("digits")
    >>> batches = test_batches(images(suite, None), suite.recipe.model_dump(), torch.device("cpu"))
    >>> sum(len(label) for _, label in batches)
    797
    """
    return plain_batches(data.test_images, data.test_labels, recipe, device, side=data.side, workers=data.workers)


def plain_batches(
    images: Tensor | DataSource,
    labels: Tensor,
    recipe: dict[str, Any],
    device: torch.device,
    *,
    side: int | None = None,
    workers: int = 0,
) -> Plain:
    """Images (N, 3, H, W) uint8 and labels (N,) in order, as ``test_batches`` makes them.

    Raises:
        ValueError: fewer than two.

    >>> from kdbench import suites
    >>> recipe = suites.load("digits").recipe.model_dump()
    >>> found, labels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> [len(label) for _, label in plain_batches(found, labels, recipe, torch.device("cpu"))]
    [5]
    """
    loader = Loader(
        images,
        labels,
        batch_size=256,
        mean=recipe["mean"],
        std=recipe["std"],
        device=device,
        size=side,
        augment="crop" if side is None or side <= images.shape[-1] else "rrc",  # shown as they are; none is drawn
        workers=workers,
    )
    height = width = side or images.shape[-1]
    fits = max(16, min(256, TEST_PIXELS // (height * width)))
    return loader.plain(1000 if device.type == "cuda" else fits)
