"""Data sets: ``load("cifar100")`` -> ``Dataset``, resident; ``kdbench.data.selection`` has the other sources.

``imagefolder:PATH@64`` takes any folder with train/<class>/* and val/<class>/* pictures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.data.errors import DataMissing
from kdbench.data.identity import DataIdentity, identify, tensors_sha256
from kdbench.data.names import canonical, hub, image_folder, sized
from kdbench.data.stratified import stratified
from kdbench.utils.files import expanded

__all__ = ["NAMES", "DataMissing", "Dataset", "default_root", "limit", "load"]

NAMES = (
    "cifar10",
    "cifar100",
    "cinic10",
    "cub200",
    "digits",
    "huggingface:NAME@SIZE",
    "imagefolder:PATH@SIZE",
    "imagenet",
    "stl10",
    "tinyimagenet",
)


#: A tensor, or a ``DataSource``: who handles both asks which; all others are given tensors.
Pixels = Any


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of both parts.

    Images are (N, 3, H, W) uint8 on the CPU, or a source that gives them by position; labels (N,) int64 in
    [0, number of classes). ``notes`` are sentences about what was left out, converted or found twice when they
    were read. Networks see squares of ``side`` pixels, of pictures that may be larger or smaller; None: as they are.
    ``workers`` is the number of processes that make batches where the host makes them.

    >>> digits = load("digits")
    >>> digits.num_classes, digits.image_shape, len(digits.train_labels), len(digits.test_labels)
    (10, (3, 8, 8), 1000, 797)
    """

    name: str
    train_images: Pixels
    train_labels: Tensor
    test_images: Pixels
    test_labels: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    side: int | None = None
    workers: int = 0

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image, as networks see it."""
        c, h, w = self.train_images.shape[1:]
        return (c, h, w) if self.side is None else (c, self.side, self.side)

    @cached_property
    def identity(self) -> DataIdentity:
        """The facts that records and cards carry: fingerprint, classes, counts of both parts, notes.

        Raises:
            ValueError: a label that no class has.
        """
        return identify(
            self.train_images, self.train_labels, self.test_images, self.test_labels, self.classes, self.notes
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over pixels and labels of both parts, names of the classes in order and image size."""
        return self.identity.fingerprint

    def known_as(self, fingerprint: str) -> bool:
        """Whether a stored fingerprint is of these data; one of kdbench 0.1.0 does not cover the classes' names."""
        if fingerprint == self.fingerprint:
            return True
        parts = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        kept = [part for part in parts if isinstance(part, Tensor)]
        return len(kept) == len(parts) and fingerprint == tensors_sha256(kept)


def default_root() -> Path:
    """Where data sets lie unless told: $KDBENCH_DATA, else kdbench in the user's cache folder.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, KDBENCH_DATA="/data/sets"):
    ...     default_root().as_posix()
    '/data/sets'
    """
    if os.environ.get("KDBENCH_DATA"):
        return expanded(os.environ["KDBENCH_DATA"])
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(cache) / "kdbench"


def load(name: str, root: str | Path | None = None, *, download: bool = True) -> Dataset:
    """Read a data set into memory.

    Args:
        name: one of ``NAMES``; ``imagefolder:PATH@64`` crops to 64 x 64, the default size, and PATH starts from
            the current folder.
        root: folder of the data sets; None: ``default_root()``. ``digits`` and
            ``imagefolder:PATH`` do not look there.
        download: whether CIFAR may be fetched when it is not there.

    Raises:
        DataMissing: the files are not there or broken; the sentence says what to put where.
        ValueError: no such data set, or it would not fit into memory.

    >>> load("digits").train_images.shape
    torch.Size([1000, 3, 8, 8])
    >>> load("cifar-100")
    Traceback (most recent call last):
    ValueError: no data set 'cifar-100'; did you mean cifar100 or cifar10?
    """
    if name == "digits":
        return _digits()
    if found := image_folder(name):
        from kdbench.data.folder import read_folder

        return Dataset(str(found), *read_folder(found.path, found.size))
    if hugging := hub(name):
        from kdbench.data.hub import read_hub

        return Dataset(str(hugging), *read_hub(hugging.name, hugging.size))
    folder = expanded(root) if root is not None else default_root()
    if name in ("cifar10", "cifar100"):
        from kdbench.data.cifar import read_cifar

        return Dataset(name, *read_cifar(name, folder, download=download))
    if name == "stl10":
        from kdbench.data.stl10 import read_stl10

        return Dataset(name, *read_stl10(folder))
    if named := sized(name):
        from kdbench.data.layouts import LISTS

        return Dataset(canonical(name), *LISTS[named[0]](folder).arrays(named[1]))
    near = get_close_matches(name, NAMES, n=2, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(NAMES)}"
    raise ValueError(f"no data set {name!r}; {known}")


def limit(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """The data set with n training images, each class keeping its share; the test part stays.

    Smaller subsets of one seed lie inside larger ones, the order of the images is kept, and
    every class is there as soon as n reaches the number of classes.

    Raises:
        ValueError: n is not positive.

    >>> limit(load("digits"), 20).train_labels.bincount().tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if n < 1:
        raise ValueError(f"a training set of {n} images cannot be trained on; give 1 or more")
    labels = dataset.train_labels
    if n >= len(labels):
        return dataset
    chosen = stratified(labels, n, seed)
    return replace(dataset, train_images=dataset.train_images[chosen], train_labels=labels[chosen])


def _digits() -> Dataset:
    from kdbench.data.digits import read_digits

    read, target = read_digits()
    images = torch.from_numpy(read)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(target)
    # Not shuffled, as in scikit-learn's own example: the later digits were written by other people
    # than the first. 1,000 leaves a last batch of 40 at batch size 64 (its half would leave one of 2).
    cut = 1000
    classes = tuple(map(str, range(10)))
    return Dataset("digits", images[:cut], labels[:cut], images[cut:], labels[cut:], classes)
