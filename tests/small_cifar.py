"""CIFAR-100 in torchvision's layout, but small: images that nobody took, with sums that torchvision accepts."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100


def small_cifar(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, train: int = 20, test: int = 10, classes: int = 5
) -> type[CIFAR100]:
    """A CIFAR-100 of so few images and classes lies in ``home``."""
    base = home / CIFAR100.base_folder
    base.mkdir(parents=True)
    sums = {}
    names = [f"class {i}" for i in range(classes)]
    for part, n in (("train", train), ("test", test)):
        pixels = np.random.default_rng(n).integers(256, size=(n, 3072), dtype=np.uint8)
        (base / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [i % classes for i in range(n)]}))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for file in base.iterdir():
        sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    small: type[CIFAR100] = CIFAR100
    return small
