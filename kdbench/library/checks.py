"""What a training loop may hand to an attached method; anything else is one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.library.facts import Facts
from kdbench.library.numbers import row_of_numbers
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
        # A method that has read them goes by them, whatever a batch says.
        self.train_labels: Tensor | None = own["train_labels"] if "train_labels" in pair.read else None
        self._partial = False  # the last batch was a shorter one

    def __call__(self, images: Any, labels: Any, idx: Any, *, training: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch as tensors: labels (B,) int64, idx (B,) int64 or None.

        Raises:
            ValueError: what of it cannot be.
        """
        labels, idx = _whole(labels, "labels"), None if idx is None else _whole(idx, "idx")
        self._images(images, len(labels))
        if not len(labels):
            raise ValueError("this batch is empty; a batch has one image or more")
        _within(labels, self.num_classes, "labels", f"{self.name} was attached for {self.num_classes} classes")
        if idx is not None:
            if len(idx) != len(labels):
                raise ValueError(f"idx has {count(len(idx), 'position')}, labels are {len(labels)}; each image has one")
            if self.num_train:
                _within(idx, self.num_train, "idx", f"there are {self.num_train:,} training images")
                if self.train_labels is not None:
                    _theirs(labels, idx, self.train_labels)
        if training and self.batch_size is not None:
            self._size(len(labels), self.batch_size)
        return _trainable(images), labels, idx

    def _images(self, images: Any, b: int) -> None:
        pictures(images)
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


def pictures(images: Any) -> None:
    """Raises: ValueError: these are no images."""
    what = type(images).__name__
    if isinstance(images, Tensor):
        plain = not images.is_nested and not images.is_meta and images.layout is torch.strided
        if plain and images.is_floating_point() and images.dim() == 4:
            return
        how = "" if plain else " without values" if images.is_meta else " that is sparse or nested"
        what = f"{images.dtype} of shape {'?' if images.is_nested else tuple(images.shape)}{how}"
    raise ValueError(f"images are normalised floating-point numbers, (B, C, H, W), not {what}")


def of_one_format(
    images: Tensor, device: str, student: torch.dtype, teacher: torch.dtype | None, method: nn.Module
) -> None:
    """Whether these can be multiplied, by autocast's help where it is on.

    Raises:
        ValueError: which of them has another number format.
    """
    if teacher not in (None, student):
        raise ValueError(f"the student's weights are {student}, the teacher's {teacher}; give both one format")
    cast = torch.is_autocast_enabled(device) and student is not torch.float64
    narrow = (torch.float32, torch.bfloat16, torch.float16)
    if images.dtype is not student and not (cast and images.dtype in narrow):
        raise ValueError(f"the images are {images.dtype}, the student's weights {student}; give both one format")
    own = next((p.dtype for p in method.parameters() if p.is_floating_point()), student)
    if own is not student and not cast:
        raise ValueError(
            f"the student's weights are {student}, those of the method {own}; move it, too: d.to({student})"
        )


def gives_logits(seen: Outputs, number: int, num_classes: int, whose: str) -> None:
    """Raises: ValueError: a network gives something else than it did when it was attached."""
    if tuple(seen.logits.shape) != (number, num_classes):
        raise ValueError(
            f"{whose} gives {tuple(seen.logits.shape)} for {count(number, 'image')}, not the {number} x {num_classes}"
            " logits that it was attached with"
        )


def refuse_one_image(error: ValueError, name: str, number: int) -> None:
    """Torch's word on a batch norm that is shown one value in training, as one on the batch.

    Raises:
        ValueError: it was that.
    """
    if number == 1 and str(error).startswith("Expected more than 1 value per channel"):
        raise ValueError(
            f"a batch norm cannot be trained on a batch of one image, and one of {name} or of the student sees it as"
            " one value; leave such a last batch out (drop_last=True)"
        ) from error


def _theirs(labels: Tensor, idx: Tensor, known: Tensor) -> None:
    """Raises: ValueError: an image has another class than it was said to have; on a device nobody looks."""
    if labels.device.type != "cpu" or idx.device.type != "cpu":
        return
    others = (known[idx] != labels).nonzero()
    if len(others):
        at = int(others[0])
        raise ValueError(
            f"the image at idx {int(idx[at])} has class {int(labels[at])} here and {int(known[idx[at]])} in the labels"
            " that the method was attached with; idx counts the training images in the order of those labels"
        )


def _whole(values: Any, what: str) -> Tensor:
    """Raises: ValueError: they are not whole numbers in a row."""
    try:
        found = row_of_numbers(values)
    except ValueError as error:
        mixed = "; labels that are mixed or smoothed belong to no method here" if what == "labels" else ""
        raise ValueError(f"{what} are whole numbers, one for each image, not {error}{mixed}") from None
    return _trainable(found)


def _trainable(tensor: Tensor) -> Tensor:
    """One that was made in ``torch.inference_mode`` as one that a backward pass may keep."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _within(values: Tensor, most: int, what: str, why: str) -> None:
    """Raises: ValueError: one lies outside; on a device nobody looks, for that would wait for it."""
    if values.device.type != "cpu" or not len(values):
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= most:
        raise ValueError(f"{what} lie between 0 and {most - 1}, one is {low if low < 0 else high}: {why}")
