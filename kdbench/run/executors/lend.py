"""A data set for several processes of one machine: large tensors lie in memory once, and every process maps them."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.data import Dataset
from kdbench.run import batches
from kdbench.run.group import Work

#: Tensors of fewer bytes are sent as they are.
SMALL = 2**16


def read(work: Work) -> Dataset:
    """The data set of a unit, for a process that nobody lends it.

    Raises:
        ValueError: it is not here.
    """
    return batches.images(
        work.suite, work.data_dir, work.limit_train, source=work.data_source, workers=work.data_workers
    )


class Lent:
    """A data set as other processes of this machine can have it, as long as this is not closed.

    ``facts`` is what is sent to them: bytes, or None where it cannot be sent and each has to read the data itself.

    >>> from kdbench.data import load
    >>> lent = Lent(load("digits"))
    >>> borrow(lent.facts).num_classes
    10
    >>> lent.close()
    """

    def __init__(self, images: Dataset) -> None:
        self._files: list[int] = []
        held = io.BytesIO()
        self.facts: bytes | None = None
        with suppress(Exception):  # a source of the user's own that cannot be sent
            _Sender(held, self._files).dump(images)
            self.facts = held.getvalue()

    def close(self) -> None:
        """What was mapped stays in memory until the last process has ended."""
        while self._files:
            os.close(self._files.pop())


def borrow(facts: bytes) -> Dataset:
    """The data set of ``Lent.facts``, in another process of the machine. What is written to it nobody else sees."""
    found: Dataset = _Receiver(io.BytesIO(facts)).load()
    return found


class _Sender(pickle.Pickler):
    def __init__(self, to: io.BytesIO, files: list[int]) -> None:
        super().__init__(to, protocol=pickle.HIGHEST_PROTOCOL)
        self._files = files

    def persistent_id(self, obj: Any) -> Any:
        """Where a large tensor lies; None: it is sent as it is."""
        plain = type(obj) is Tensor and obj.device.type == "cpu" and obj.dtype in (torch.uint8, torch.int64)
        if not plain or obj.nbytes < SMALL or not hasattr(os, "memfd_create"):
            return None
        array = obj.detach().contiguous().numpy()
        file = os.memfd_create("kdbench")
        self._files.append(file)
        left = memoryview(array).cast("B")
        while left:
            left = left[os.write(file, left) :]
        return os.getpid(), file, array.dtype.str, array.shape


class _Receiver(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Tensor:
        """The tensor that lies there."""
        process, file, kind, shape = pid
        # Copied on the first write to a page: a method that writes into its batch spoils no other process.
        return torch.from_numpy(np.memmap(f"/proc/{process}/fd/{file}", dtype=kind, mode="c", shape=shape))
