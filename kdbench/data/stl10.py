"""STL-10 in torchvision's layout: 5,000 and 8,000 labelled pictures of 96 px; the unlabelled ones are not used."""

from __future__ import annotations

import tarfile
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import STL10

from kdbench.data.errors import DataMissing, shown, why

Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]


def read_stl10(root: Path, *, download: bool) -> Arrays:
    """Training images (N, 3, 96, 96) uint8 and labels, test images and labels, names of the classes.

    Raises:
        DataMissing: it is not there or damaged, and cannot be fetched.
    """
    from filelock import FileLock

    try:
        try:
            train, test = STL10(str(root), split="train"), STL10(str(root), split="test")
        except RuntimeError:
            if not download:
                raise
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".stl10.lock"):
                train = STL10(str(root), split="train", download=True)
            test = STL10(str(root), split="test")
    except (RuntimeError, OSError, EOFError, ValueError, HTTPException, tarfile.TarError) as error:
        tried = "it could not be downloaded" if download else "downloading was not allowed"
        raise DataMissing(
            f"STL-10 is not complete in {shown(root)} ({why(error)}); {tried}; unpack {STL10.filename} ({STL10.url})"
            " there, or name the folder that has it with --data-dir or KDBENCH_DATA"
        ) from error
    return *_tensors(train), *_tensors(test), tuple(str(name) for name in train.classes)


def _tensors(part: STL10) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.data).contiguous(), torch.from_numpy(part.labels).to(torch.int64)
