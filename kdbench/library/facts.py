"""What a method is told of a pair and of a batch where the caller need not say everything.

To read what was not said is an error that names it; what was read of the pair is known afterwards.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdbench.distiller import Batch, Pair
from kdbench.library.numbers import row_of_numbers


class Facts(Pair):
    """A pair that remembers which of its facts a method has read.

    >>> import torch
    >>> from kdbench import Shapes
    >>> sizes = Shapes(((4, 8, 8),), (4, 8, 8), 4)
    >>> facts = Facts(sizes, sizes, lambda last: last, 4, torch.arange(5), batch_size=2)
    >>> facts.num_train, facts.read
    (5, {'num_train'})
    """

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name in ("train_labels", "num_train", "batch_size"):
            own.setdefault("_read", set()).add(name)
            if name in (missing := own.get("_missing", {})):
                raise ValueError(missing[name])
            if name == "num_train":
                return len(own["train_labels"])
        return object.__getattribute__(self, name)

    @property
    def read(self) -> set[str]:
        """Which of the labels, the number of training images and the batch size were read."""
        return set(self.__dict__.get("_read", ()))

    def lacks(self, **why: str) -> None:
        """From now on to read these facts raises ValueError with their sentence."""
        self.__dict__["_missing"] = why


def labels_of(labels: Any, num_classes: int) -> Tensor:
    """(N,) int64 on the CPU, from anything that holds whole numbers.

    Raises:
        ValueError: it does not, or a number is no class.

    >>> labels_of([0, 2, 1], 3)
    tensor([0, 2, 1])
    """
    try:
        found = row_of_numbers(labels).detach().cpu()
    except ValueError as error:
        raise ValueError(f"labels are the classes of the training images, one whole number each, not {error}") from None
    if len(found) < 1:
        raise ValueError("labels are empty: there is no training image")
    if (low := int(found.min())) < 0 or (high := int(found.max())) >= num_classes:
        raise ValueError(
            f"labels lie between 0 and {num_classes - 1}, the student's last class; one is {low if low < 0 else high}"
        )
    return found


def _silent(name: str) -> property:
    def read(self: Batch) -> Tensor:
        raise ValueError(_SAY[name])

    return property(read)


_SAY = {
    "idx": "this method keeps something of every training image: call d(images, labels, idx) with the position of"
    " each image in the training set, (B,)",
    "progress": "this method changes with the time: set d.progress, the share of the stage that is done, before each"
    " call, or say how many calls there will be with steps=",
}


def batch_class(*unsaid: str) -> type[Batch]:
    """``Batch``, or one whose ``idx`` or ``progress`` was not said: reading it is a sentence."""
    return _BATCHES[unsaid]


class _NoIdx(Batch):
    idx = _silent("idx")


class _NoProgress(Batch):
    progress = _silent("progress")


class _Neither(Batch):
    idx = _silent("idx")
    progress = _silent("progress")


_BATCHES: dict[tuple[str, ...], type[Batch]] = {
    (): Batch,
    ("idx",): _NoIdx,
    ("progress",): _NoProgress,
    ("idx", "progress"): _Neither,
}
