"""STL-10 in torchvision's layout, without its 100,000 unlabelled images: checked, read. It is not fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import STL10
from torchvision.datasets.utils import check_integrity

from kdbench.data.errors import DataMissing, shown, why

SIDE = 96
#: Names and MD5 sums of the files that are read.
FILES: tuple[tuple[str, str], ...] = tuple(
    (name, md5) for name, md5 in [*STL10.train_list, *STL10.test_list] if not name.startswith("unlabeled")
)
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]


def read_stl10(root: Path) -> Arrays:
    """Training images (5000, 3, 96, 96) uint8 and labels, 8,000 test images and labels, names of the classes.

    Raises:
        DataMissing: the sentence says which file is missing or not the official one, and what to put where.
    """
    folder = root / STL10.base_folder
    try:
        absent = [name for name, _ in FILES if not (folder / name).is_file()]
        wrong = [name for name, md5 in FILES if name not in absent and not check_integrity(str(folder / name), md5)]
        if absent or wrong:
            faults = [f"{STL10.base_folder} lacks {', '.join(absent)}"] if absent else []
            faults += [f"{', '.join(wrong)} are not the official files by their MD5 sums"] if wrong else []
            raise DataMissing(
                f"stl10 is not complete in {shown(root)}: {'; '.join(faults)}; unpack {STL10.filename} ({STL10.url})"
                " there, or name the folder that has it with --data-dir or KDBENCH_DATA"
            )
        train, test = (_part(folder, part) for part in ("train", "test"))
    except OSError as error:
        raise DataMissing(f"stl10 in {shown(root)} cannot be read: {why(error)}") from error
    return *train, *test, CLASSES


def _part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    pixels = np.fromfile(folder / f"{part}_X.bin", dtype=np.uint8).reshape(-1, 3, SIDE, SIDE)
    labels = np.fromfile(folder / f"{part}_y.bin", dtype=np.uint8).astype(np.int64) - 1
    # The files hold columns first.
    return torch.from_numpy(pixels).transpose(2, 3).contiguous(), torch.from_numpy(labels)
