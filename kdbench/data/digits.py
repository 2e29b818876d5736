"""The digits of scikit-learn: 1,797 pictures of 8 x 8 pixels, which lie in its package."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (1797, 8, 8), their greys from 0 to 255, and labels (1797).

    The file is read where it lies: to import scikit-learn takes longer than all else that a small run loads.

    >>> images, labels = read_digits()
    >>> images.shape, int(images.max()), labels[:3].tolist()
    ((1797, 8, 8), 255, [0, 1, 2])
    """
    rows = _rows()
    images = (rows[:, :-1].reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    return images, rows[:, -1].astype(np.int64)


def _rows() -> NDArray[np.float64]:
    """64 greys from 0 to 16 and a label each."""
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as text:
                return np.loadtxt(text, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps them elsewhere

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])
