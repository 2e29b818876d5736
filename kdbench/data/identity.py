"""What a data set is, in facts that teacher cards, records and checkpoints can carry, and how two of them differ.

Neither paths, dates and names of files nor the machine are part of it; nor are mean and standard deviation, which
belong to the network that looks at the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from kdbench.data.source import DataSource

Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Counts = tuple[Annotated[int, Field(ge=0)], ...]


class Parts(BaseModel):
    """SHA-256 of each tensor: its shape, then its values, little-endian."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_images: Hex
    train_labels: Hex
    test_images: Hex
    test_labels: Hex


class DataIdentity(BaseModel):
    """One data set. ``fingerprint`` covers all but the notes: pixels, labels, class names in order, image size.

    >>> from kdbench.data import load
    >>> load("digits").identity.describe()
    '10 classes, 1,000 training images (98 to 104 of a class), 797 test images (76 to 83 of a class), 8 x 8'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: Hex
    classes: tuple[str, ...]  # in the order of the labels
    image_shape: tuple[int, int, int]  # (C, H, W)
    train_counts: Counts  # images of each class
    test_counts: Counts
    parts: Parts
    notes: tuple[str, ...] = ()  # sentences: what was left out, converted or found twice

    @model_validator(mode="after")
    def _holds_together(self) -> DataIdentity:
        if not len(self.classes) == len(self.train_counts) == len(self.test_counts):
            raise ValueError(f"{len(self.classes)} classes, but counts of others")
        if self.fingerprint != _fingerprint(self.classes, self.image_shape, self.parts):
            raise ValueError("the fingerprint is not that of the facts beside it")
        return self

    @property
    def num_train(self) -> int:
        """Training images."""
        return sum(self.train_counts)

    @property
    def num_test(self) -> int:
        """Test images."""
        return sum(self.test_counts)

    def describe(self) -> str:
        """``3 classes, 1,200 training images (400 of each class), 300 test images (100 of each class), 32 x 32``."""
        _, height, width = self.image_shape
        train, test = (_spread(counts) for counts in (self.train_counts, self.test_counts))
        return (
            f"{len(self.classes)} classes, {self.num_train:,} training images ({train}), {self.num_test:,} test images"
            f" ({test}), {height} x {width}"
        )


def identify(
    train_images: Tensor | DataSource,
    train_labels: Tensor,
    test_images: Tensor | DataSource,
    test_labels: Tensor,
    classes: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> DataIdentity:
    """The identity of tensors, or of sources of them: images (N, C, H, W) uint8, labels (N,) int64.

    Raises:
        ValueError: a label that no class has.
    """
    counts = []
    for labels in (train_labels, test_labels):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise ValueError(
                f"labels go from {int(labels.min())} to {int(labels.max())}, and there are {len(classes)} classes"
            )
        counts.append(tuple(torch.bincount(labels, minlength=len(classes)).tolist()))
    c, h, w = train_images.shape[1:]
    parts = Parts(
        train_images=part_sha256(train_images),
        train_labels=part_sha256(train_labels),
        test_images=part_sha256(test_images),
        test_labels=part_sha256(test_labels),
    )
    return DataIdentity(
        fingerprint=_fingerprint(classes, (c, h, w), parts),
        classes=classes,
        image_shape=(c, h, w),
        train_counts=counts[0],
        test_counts=counts[1],
        parts=parts,
        notes=notes,
    )


def difference(before: DataIdentity, now: DataIdentity) -> str:
    """The sentence that tells two data sets apart most usefully; empty where they are the same.

    It can follow "... was trained on other data: ".

    >>> from kdbench.data import limit, load
    >>> digits = load("digits")
    >>> difference(digits.identity, limit(digits, 100).identity)
    'there were 1,000 training images, there are 100'
    """
    if before.fingerprint == now.fingerprint:
        return ""
    return (
        _classes(before.classes, now.classes)
        or _shape(before.image_shape, now.image_shape)
        or _counts(before, now)
        or _contents(before.parts, now.parts)
    )


def _classes(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    if before == now:
        return ""
    if len(before) != len(now):
        new, gone = _missing(now, before), _missing(before, now)
        named = [f"{_few(names)} {what}" for names, what in ((new, "new"), (gone, "gone")) if names]
        return f"there were {len(before)} classes, there are {len(now)} ({', '.join(named)})"
    first, *others = [i for i, (was, here) in enumerate(zip(before, now, strict=True)) if was != here]
    more = f" ({1 + len(others)} of {len(now)} classes differ)" if others else ""
    return f"class {first} was {before[first]}, is {now[first]}{more}"


def _shape(before: tuple[int, int, int], now: tuple[int, int, int]) -> str:
    if before == now:
        return ""
    was, here = (" x ".join(map(str, shape[1:] if before[0] == now[0] else shape)) for shape in (before, now))
    return f"images were {was} px, are {here} px"


def _counts(before: DataIdentity, now: DataIdentity) -> str:
    halves = (("training", before.train_counts, now.train_counts), ("test", before.test_counts, now.test_counts))
    if changed := [(half, sum(was), sum(here)) for half, was, here in halves if sum(was) != sum(here)]:
        return "; ".join(f"there were {was:,} {half} images, there are {here:,}" for half, was, here in changed)
    for half, was, here in halves:
        for name, old, new in zip(now.classes, was, here, strict=True):
            if old != new:
                return f"class {name} had {old:,} {half} images, has {new:,}"
    return ""


def _contents(before: Parts, now: Parts) -> str:
    """Counts and names agree, so a tensor differs in its values or in their order."""
    words = {
        "train_labels": "training labels",
        "test_labels": "test labels",
        "train_images": "training images",
        "test_images": "test images",
    }
    changed = [words[part] for part in words if getattr(before, part) != getattr(now, part)]
    return f"the {' and the '.join(changed)} differ, or their order"


def _fingerprint(classes: tuple[str, ...], image_shape: tuple[int, int, int], parts: Parts) -> str:
    facts = {"classes": classes, "image_shape": image_shape, "parts": parts.model_dump()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tensors_sha256(parts: Iterable[Tensor]) -> str:
    """The fingerprint as kdbench 0.1.0 made it: shapes and values of the tensors in turn, as they lie in memory."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def part_sha256(values: Tensor | DataSource) -> str:
    """SHA-256 of images or labels, as ``Parts`` has it.

    >>> part_sha256(torch.arange(3)) == part_sha256(torch.arange(3)), len(part_sha256(torch.arange(3)))
    (True, 64)
    """
    if isinstance(values, DataSource):
        return values.sha256()
    array = values.contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _spread(counts: Counts) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,} of each class" if least == most else f"{least:,} to {most:,} of a class"


def _missing(names: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    there = set(others)
    return [name for name in names if name not in there]


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}"
