"""Data sets of the Hugging Face library ``datasets``: ``huggingface:NAME@SIZE``, by name or as a folder saved to disk.

The library is an extra (``pip install kdbench[datasets]``). A set needs a split to train on, one to test on
(``validation``, ``valid``, ``val`` or ``test``), one column of pictures and one of class labels. Pictures follow the
rules of ``kdbench.data.pictures``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdbench.data.decode import fits
from kdbench.data.errors import DataMissing, why
from kdbench.data.pictures import Refused, to_rgb
from kdbench.utils.wording import quoted

TESTS = ("validation", "valid", "val", "test")
Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]


def read_hub(name: str, size: int) -> Arrays:
    """Training images (N, 3, size, size) uint8 and labels, test images and labels, names of the classes.

    Raises:
        DataMissing: the library or the data set is not there, or it is not of pictures with one label each.
        ValueError: it would take more than half of the free memory.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataMissing(
            f"huggingface:{name} needs the library datasets; install it with `pip install datasets`"
        ) from error
    try:
        # A folder that was saved to disk, else a name that is in the cache or can be fetched.
        found: Any = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    except Exception as error:  # the library's own, and those of the network
        raise DataMissing(f"the data set {quoted(name)} cannot be had from Hugging Face: {why(error)}") from error
    second = next((one for one in TESTS if one in found), None)
    if "train" not in found or second is None:
        raise DataMissing(
            f"huggingface:{name} has the splits {', '.join(found)}; kdbench trains on train and tests on one of"
            f" {', '.join(TESTS)}"
        )
    features = found["train"].features
    picture = _only(name, features, datasets.Image, "pictures")
    label = _only(name, features, datasets.ClassLabel, "class labels")
    fits(Path(name), len(found["train"]) + len(found[second]), size)
    train, test = (_part(name, found[part], picture, label, size) for part in ("train", second))
    return *train, *test, tuple(features[label].names)


def _only(name: str, features: Any, kind: type, what: str) -> str:
    """The one column of a kind."""
    here = [str(column) for column, feature in features.items() if isinstance(feature, kind)]
    if len(here) != 1:
        raise DataMissing(
            f"huggingface:{name} has {len(here)} columns of {what}, and kdbench takes one; it has {', '.join(features)}"
        )
    return str(here[0])


def _part(name: str, rows: Any, picture: str, label: str, size: int) -> tuple[Tensor, Tensor]:
    images = np.empty((len(rows), 3, size, size), dtype=np.uint8)
    labels = torch.empty(len(rows), dtype=torch.int64)
    for at, row in enumerate(rows):
        try:
            rgb, _ = to_rgb(row[picture])
        except Refused as error:
            raise DataMissing(f"picture {at} of huggingface:{name} {error}") from error
        except Exception as error:  # Pillow's readers raise whatever a broken file makes Python raise
            raise DataMissing(f"picture {at} of huggingface:{name} cannot be read: {why(error)}") from error
        if row[label] is None or row[label] < 0:
            raise DataMissing(f"picture {at} of huggingface:{name} has no label")
        images[at] = np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        labels[at] = row[label]
    return torch.from_numpy(images), labels
