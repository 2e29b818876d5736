"""CIFAR-10-C and CIFAR-100-C where their ``.npy`` files lie: every test image, corrupted, at five severities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SEVERITIES = 5
#: What the benchmark's authors keep for validation and leave out of the mean.
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")


def kinds(folder: Path) -> list[str]:
    """The corruptions in a folder, sorted.

    Raises:
        ValueError: there are none, or no labels.
    """
    found = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if not found or not (folder / "labels.npy").is_file():
        raise ValueError(
            f"{folder} has {'no labels.npy' if found else 'no corruptions'}; --cifar-c takes the unpacked folder of"
            " CIFAR-10-C or CIFAR-100-C, with labels.npy and gaussian_noise.npy, fog.npy and others in it"
        )
    return found


@lru_cache(maxsize=4)
def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and bytes of all its files.

    Raises:
        ValueError: see ``kinds``.
    """
    whole = hashlib.sha256()
    for name in [*kinds(folder), "labels"]:
        with open(folder / f"{name}.npy", "rb") as file:
            whole.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def parts(folder: Path, labels: Tensor, image_shape: tuple[int, int, int]) -> Iterator[tuple[str, int, Tensor]]:
    """Corruption, severity from 1, and the (N, 3, H, W) uint8 test images so corrupted.

    Args:
        folder: of the files.
        labels: (N,) of the test images that the network is measured on.
        image_shape: (3, H, W) of these.

    Raises:
        ValueError: a file is damaged, or is of other images.
    """
    n, (_, height, width) = len(labels), image_shape
    said = _load(folder / "labels.npy")
    if said.shape != (SEVERITIES * n,) or not np.array_equal(said, np.tile(labels.numpy(), SEVERITIES)):
        raise ValueError(
            f"the labels in {folder} are not those of these {n:,} test images, {SEVERITIES} times over; is it the"
            " corrupted version of another data set?"
        )
    for kind in kinds(folder):
        images = _load(folder / f"{kind}.npy")
        if images.shape != (SEVERITIES * n, height, width, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"{folder / kind}.npy has {images.shape} {images.dtype}, not ({SEVERITIES * n}, {height}, {width}, 3)"
                " uint8"
            )
        for severity in range(1, SEVERITIES + 1):
            part = np.array(images[(severity - 1) * n : severity * n])  # a copy: the file is mapped read-only
            yield kind, severity, torch.from_numpy(part).permute(0, 3, 1, 2).contiguous()


def _load(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array: {error}") from error
