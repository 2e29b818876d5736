"""What functions that take tensors of yours refuse, in one sentence, before they count anything."""

from __future__ import annotations

import torch
from torch import Tensor


def finite(values: Tensor, what: str) -> Tensor:
    """The values themselves.

    Raises:
        ValueError: some are not finite.

    >>> finite(torch.tensor([float("nan")]), "its logits")
    Traceback (most recent call last):
    ValueError: its logits are not finite
    """
    if not bool(values.isfinite().all()):
        raise ValueError(f"{what} are not finite")
    return values


def answers(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) labels as int64, for (N, K) logits.

    Raises:
        ValueError: they are not of that kind, do not go together, or are not finite; there are no images.

    >>> answers(torch.zeros(2, 3), torch.tensor([0, 3]))
    Traceback (most recent call last):
    ValueError: labels of 3 classes are 0 to 2, not 0 to 3
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits are (N, K) floating-point numbers, not {tuple(logits.shape)} of {logits.dtype}")
    labels = classes(labels, len(logits))
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= logits.shape[1]:
        raise ValueError(f"labels of {logits.shape[1]} classes are 0 to {logits.shape[1] - 1}, not {least} to {most}")
    finite(logits, "its logits")
    return labels


def classes(labels: Tensor, images: int) -> Tensor:
    """(N,) labels of so many images as int64.

    Raises:
        ValueError: they are no whole numbers, or as many labels as images are not there.

    >>> classes(torch.tensor([0, 1], dtype=torch.int32), 2)
    tensor([0, 1])
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are (N,) whole numbers, not {tuple(labels.shape)} of {labels.dtype}")
    if not images:
        raise ValueError("there are no images")
    if len(labels) != images:
        raise ValueError(f"there are {images} images and {len(labels)} labels")
    return labels.long()
