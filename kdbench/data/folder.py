"""Folders of pictures -> square uint8 tensors: any image folder, and Tiny ImageNet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]
Pictures = list[tuple[str, int]]  # path, label


class DataMissing(ValueError):
    """Files of a data set are not there or cannot be read."""


def read_folder(path: Path, size: int) -> Arrays:
    """PATH/train/<class>/* and PATH/val/<class>/* (or test) -> train and test tensors.

    Pictures are scaled so that the shorter side is ``size`` pixels, then cut to the middle.

    Raises:
        DataMissing: a folder or a class is missing, or a picture cannot be read.
        ValueError: it would take more than half of the free memory.
    """
    tests = [path / name for name in ("val", "test") if (path / name).is_dir()]
    if not (path / "train").is_dir() or not tests:
        raise DataMissing(f"{path} is no image folder: it needs train/<class>/* and val/<class>/* (or test/<class>/*)")
    classes = _classes(path / "train")
    if classes != (found := _classes(tests[0])):
        odd = sorted(set(classes) ^ set(found))
        raise DataMissing(
            f"{path / 'train'} and {tests[0]} have different classes: {', '.join(odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''} are in one of them only"
        )
    train, test = _pictures(path / "train", classes), _pictures(tests[0], classes)
    _fits(path, len(train) + len(test), size)
    return *_decode(train, size), *_decode(test, size), classes


def read_tiny_imagenet(root: Path) -> Arrays:
    """Tiny ImageNet as distributed (val/images and val_annotations.txt) or as an image folder.

    Raises:
        DataMissing: not there, or a picture cannot be read.
    """
    homes = [root / name for name in ("tiny-imagenet-200", "tiny-imagenet") if (root / name / "train").is_dir()]
    if not homes:
        raise DataMissing(
            f"Tiny ImageNet is not in {root}: unpack tiny-imagenet-200.zip (http://cs231n.stanford.edu/"
            "tiny-imagenet-200.zip) there, or name the folder that has it with --data-dir or KDBENCH_DATA"
        )
    home = homes[0]
    notes = home / "val" / "val_annotations.txt"
    if not notes.is_file():
        return read_folder(home, 64)
    classes = _classes(home / "train")
    label_of = {name: label for label, name in enumerate(classes)}
    test: Pictures = []
    for line in notes.read_text().splitlines():
        file, name = line.split("\t")[:2]
        if name not in label_of:
            raise DataMissing(f"{notes} names the class {name}, which has no folder in {home / 'train'}")
        test.append((str(home / "val" / "images" / file), label_of[name]))
    train = _pictures(home / "train", classes)
    _fits(home, len(train) + len(test), 64)
    return *_decode(train, 64), *_decode(test, 64), classes


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if len(names) < 2:
        raise DataMissing(f"{folder} has {len(names)} class folders; classification takes two or more")
    return names


def _pictures(folder: Path, classes: Sequence[str]) -> Pictures:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    label_of = {name: label for label, name in enumerate(classes)}
    try:
        return make_dataset(str(folder), label_of, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:  # torchvision's sentence about a class without pictures
        raise DataMissing(f"{folder}: {' '.join(str(error).split())}") from error


def _decode(pictures: Pictures, size: int) -> tuple[Tensor, Tensor]:
    """Pictures -> (N, 3, size, size) uint8 and (N,) int64."""
    import numpy as np
    from PIL import Image, ImageOps

    images = np.empty((len(pictures), size, size, 3), dtype=np.uint8)

    def one(i: int) -> None:
        path = pictures[i][0]
        try:
            with Image.open(path) as picture:
                images[i] = np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataMissing(f"the picture {path} cannot be read: {error}") from error

    # Pillow lets go of the interpreter lock while it decodes.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        for _ in pool.map(one, range(len(pictures)), chunksize=64):
            pass
    labels = torch.tensor([label for _, label in pictures], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _fits(path: Path, count: int, size: int) -> None:
    """Refuse what would take more than half of the free memory (the loader needs the other half)."""
    need, free = count * 3 * size * size, _free_memory()
    if need > free / 2:
        raise ValueError(
            f"{path}: {count} pictures of {size} x {size} take {need / 2**30:.1f} GiB, more than half of the "
            f"{free / 2**30:.1f} GiB of free memory; ask for a smaller size with @SIZE or take fewer pictures"
        )


def _free_memory() -> int:
    """Bytes that can be had without swapping; all memory where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
