"""What a training loop may hand to an attached method; anything else is one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench.library.facts import Facts
from kdbench.utils.wording import count

_SIZES = "batch_size"


class Checks:
    """Looks at every batch, without waiting for a device.

    Args:
        name: of the method.
        pair: its facts, of which the method has read what it needs.
        image_shape: (C, H, W) that the pair was measured on.
        views: V, of every image; the plain one counts.
    """

    def __init__(self, name: str, pair: Facts, image_shape: tuple[int, int, int], views: tuple[str, ...]) -> None:
        own = vars(pair)
        self.name, self.image_shape, self.views = name, image_shape, views
        self.num_classes: int = own["num_classes"]
        self.num_train = len(own["train_labels"])
        # A method that has read it is made for batches of that size.
        self.batch_size: int | None = own[_SIZES] if _SIZES in pair.read else None
        self._partial = False  # the last batch was a shorter one

    def __call__(self, images: Any, labels: Any, idx: Any, *, training: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch as tensors: labels (B,) int64, idx (B,) int64 or None.

        Raises:
            ValueError: what of it cannot be.
        """
        labels, idx = _whole(labels, "labels"), None if idx is None else _whole(idx, "idx")
        self._images(images, len(labels))
        _within(labels, self.num_classes, "labels", f"{self.name} was attached for {self.num_classes} classes")
        if idx is not None:
            if len(idx) != len(labels):
                raise ValueError(f"idx has {count(len(idx), 'position')}, labels are {len(labels)}; each image has one")
            if self.num_train:
                _within(idx, self.num_train, "idx", f"there are {self.num_train:,} training images")
        if training and self.batch_size is not None:
            self._size(len(labels), self.batch_size)
        return images, labels, idx

    def _images(self, images: Any, b: int) -> None:
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() != 4:
            what = (
                f"{images.dtype} of shape {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise ValueError(f"images are normalised floating-point numbers, (B, C, H, W), not {what}")
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"{self.name} was attached for images of shape {self.image_shape}, these have"
                f" {tuple(images.shape[1:])}; attach it with the image_size that you train with"
            )
        v = 1 + len(self.views)
        made = all(view.startswith("rot") for view in self.views) and self.image_shape[1] == self.image_shape[2]
        if len(images) == v * b or (made and len(images) == b):
            return
        if v == 1:
            raise ValueError(f"there are {count(len(images), 'image')} and {count(b, 'label')}; each image has one")
        raise ValueError(
            f"{self.name} looks at {v} views of every image ({', '.join(('plain', *self.views))}): give the images of"
            f" all, one view after another, {v * b} for {count(b, 'label')}, not {len(images)}"
        )

    def _size(self, b: int, whole: int) -> None:
        if b > whole or (b < whole and self._partial):
            raise ValueError(
                f"{self.name} is made for batches of {count(whole, 'image')}, of which the last of an epoch may be"
                f" shorter; {'this one has' if b > whole else 'two in a row are shorter, this one has'} {b}, so attach"
                " it with the batch_size that you train with"
            )
        self._partial = b < whole


def _whole(values: Any, what: str) -> Tensor:
    """Raises: ValueError: they are not whole numbers in a row."""
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what} are whole numbers, one for each image, not {type(values).__name__}") from None
    if found.dim() != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        mixed = "; labels that are mixed or smoothed belong to no method here" if what == "labels" else ""
        raise ValueError(
            f"{what} are whole numbers, one for each image, not {found.dtype} of shape {tuple(found.shape)}{mixed}"
        )
    return found.long()


def _within(values: Tensor, most: int, what: str, why: str) -> None:
    """Raises: ValueError: one lies outside; on a device nobody looks, for that would wait for it."""
    if values.device.type != "cpu" or not len(values):
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= most:
        raise ValueError(f"{what} lie between 0 and {most - 1}, one is {low if low < 0 else high}: {why}")
