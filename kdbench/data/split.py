"""What is held out of a training set to validate on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.data.sets import Dataset, Pixels
from kdbench.data.stratified import stratified

#: Of the shuffle that decides which images are held out: a constant, so that all methods, pairs and seeds share them.
VALIDATION_SEED = 20_240_229


class HeldOut(NamedTuple):
    """Images (V, 3, H, W) uint8 and labels (V,) int64 that no student is trained on, in the data set's order.

    >>> from kdbench.data.sets import load
    >>> rest, validation = hold_out(load("digits"), 0.1)
    >>> validation.images.shape, len(rest.train_labels)
    (torch.Size([100, 3, 8, 8]), 900)
    """

    images: Pixels
    labels: Tensor


def held_out_count(n: int, share: float) -> int:
    """How many of n training images a share is: two at least, where it is not 0.

    Raises:
        ValueError: fewer than two images would be left to train on.

    >>> held_out_count(50_000, 0.1), held_out_count(50_000, 0)
    (5000, 0)
    """
    if not share:
        return 0
    out = max(2, int(n * share + 0.5))  # a loader takes two
    if n - out < 2:
        raise ValueError(f"recipe.validation={share:g} of {n} training images leaves {n - out} to train on; give less")
    return out


def hold_out(dataset: Dataset, share: float) -> tuple[Dataset, HeldOut | None]:
    """The data set without a share of its training images, and these; a share of 0 holds out nothing.

    Which ones follows from the training labels and a constant alone. A class of a single image stays in training.

    Raises:
        ValueError: fewer than two images would be left.

    >>> from kdbench.data.sets import load
    >>> rest, validation = hold_out(load("digits"), 0.2)
    >>> len(rest.train_labels), len(validation.labels), len(rest.test_labels)
    (800, 200, 797)
    """
    labels = dataset.train_labels
    if not share:
        return dataset, None
    kept, others = held_out_places(labels, share)
    rest = replace(dataset, train_images=dataset.train_images[kept], train_labels=labels[kept])
    return rest, HeldOut(dataset.train_images[others], labels[others])


def held_out_places(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Positions, rising, of what stays in training, and of what is held out of (N,) labels.

    >>> kept, others = held_out_places(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25)
    >>> len(kept), len(others)
    (6, 2)
    """
    out = held_out_count(len(labels), share)
    kept = stratified(labels, len(labels) - out, VALIDATION_SEED)
    others = torch.ones(len(labels), dtype=torch.bool)
    others[kept] = False
    return kept, others.nonzero().flatten()
