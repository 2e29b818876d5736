"""Where a teacher's kept outputs lie, and what of the training data they are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdbench.distiller import READS
from kdbench.utils.plan import BatchPlan

FORMAT = 1


Ints = NDArray[np.int64]


class Loader(Protocol):
    """What a table needs of the training data: order and view of each image, and the images."""

    batch_size: int
    crop_padding: int
    flip: bool
    views: tuple[str, ...]
    labels: Tensor

    def plan(self, epoch: int, stage: str = "train") -> BatchPlan:
        """All draws of an epoch."""
        ...

    def gather(self, plan: BatchPlan) -> Tensor:
        """Images from part of a plan."""
        ...


class Unfit(ValueError):
    """Why there can be no table; the sentence is shown to the user.

    >>> raise Unfit("views drawn are drawn or turned, a table holds crops and flips only")
    Traceback (most recent call last):
    kdbench.engine.teacher_cache.place.Unfit: views drawn are drawn or turned, a table holds crops and flips only
    """


@dataclass(frozen=True)
class Place:
    """Where tables lie, and all that the teacher's answers depend on beside image and view.

    ``facts`` holds plain JSON values; a table of other facts has another name.

    >>> one = Place(Path("tables"), "digits-resnet20", {"precision": "fp32"})
    >>> other = Place(Path("tables"), "digits-resnet20", {"precision": "bf16"})
    >>> one.folder == other.folder
    False
    """

    home: Path
    title: str  # begins the folder's name
    facts: Mapping[str, Any]
    tolerance: float = 0.0  # of kept against live answers, as a share of the largest of them; 0: to the bit

    @property
    def folder(self) -> Path:
        """The table's own."""
        text = json.dumps(dict(self.facts) | {"format": FORMAT}, sort_keys=True)
        return self.home / f"{self.title}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def count_views(crop_padding: int, flip: bool) -> int:
    """V: ways to crop, times two where images are mirrored.

    >>> count_views(crop_padding=4, flip=True)
    162
    """
    return int((2 * crop_padding + 1) ** 2 * (1 + flip))


def parts_of(reads: str) -> tuple[str, ...]:
    """What must be kept for lanes that read ``reads``.

    >>> parts_of("pooled")
    ('logits', 'pooled')
    """
    return READS[: READS.index(reads) + 1]
