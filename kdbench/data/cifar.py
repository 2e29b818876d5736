"""CIFAR-10 and CIFAR-100 in torchvision's layout: found, unpacked or fetched, checked, read."""

from __future__ import annotations

import os
import tarfile
import warnings
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from kdbench.data.errors import DataMissing, shown, why

NAMES = ("cifar10", "cifar100")
Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]


def read_cifar(name: str, root: Path, *, download: bool) -> Arrays:
    """Training images (N, 3, 32, 32) uint8 and labels, test images and labels, names of the classes.

    Raises:
        DataMissing: the sentence says which file is missing or damaged, and what to do.
    """
    from filelock import FileLock

    cls = CIFAR100 if name == "cifar100" else CIFAR10

    def read(*, fetch: bool) -> tuple[CIFAR10, CIFAR10]:
        # numpy warns of how the official pickles, written in 2009, spell a flag.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(root, train=True, download=fetch), cls(root, train=False)

    try:
        # torchvision's own "download" unpacks an archive that is there without any network.
        fetch = check_integrity(str(root / cls.filename), cls.tgz_md5)
        try:
            train, test = read(fetch=fetch)
        except RuntimeError:
            if not download:
                raise
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):
                train, test = read(fetch=True)
    except (RuntimeError, OSError, EOFError, HTTPException, tarfile.TarError) as error:
        raise DataMissing(_sentence(name, cls, root, download=download, error=error)) from error
    return *_tensors(train), *_tensors(test), tuple(train.classes)


def _tensors(part: CIFAR10) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(part.targets, dtype=torch.int64)


def _sentence(name: str, cls: type[CIFAR10], root: Path, *, download: bool, error: Exception) -> str:
    """What is wrong with the files, what was tried, and what would do."""
    # torchvision's RuntimeError says only that files are missing or damaged, which is said better here.
    reason = "" if isinstance(error, RuntimeError) else f" ({why(error)})"
    if _official(root / cls.filename, cls.tgz_md5):
        tried = f"the archive {cls.filename} is there and could not be unpacked{reason}"
    else:
        tried = f"it could not be downloaded{reason}" if download else "downloading was not allowed"
    return (
        f"{name} is not complete in {shown(root)}: {'; '.join(_faults(cls, root))}; {tried}; put the folder"
        f" {cls.base_folder} or the archive {cls.filename} ({cls.url}) there, or name the folder that has it with"
        " --data-dir or KDBENCH_DATA"
    )


def _faults(cls: type[CIFAR10], root: Path) -> Iterator[str]:
    if os.path.exists(root) and not os.path.isdir(root):
        yield "it is no folder"
        return
    archive, home = root / cls.filename, root / cls.base_folder
    if os.path.isfile(archive) and not _official(archive, cls.tgz_md5):
        yield f"the archive {cls.filename} ({_size(archive)}) is not the official one by its MD5 sum"
    if not os.path.isdir(home):
        yield f"there is no folder {cls.base_folder}"
        return
    files = [*cls.train_list, *cls.test_list, [cls.meta["filename"], cls.meta["md5"]]]
    if absent := [file for file, _ in files if not os.path.isfile(home / file)]:
        yield f"{cls.base_folder} lacks {', '.join(absent)}"
    for file, md5 in files:
        if os.path.isfile(home / file) and not _official(home / file, md5):
            yield f"{cls.base_folder}/{file} ({_size(home / file)}) is not the official file by its MD5 sum"


def _official(path: Path, md5: str) -> bool:
    try:
        return bool(check_integrity(str(path), md5))
    except OSError:
        return False


def _size(path: Path) -> str:
    if not os.access(path, os.R_OK):
        return "which this user may not read"
    return f"{path.stat().st_size:,} bytes"
