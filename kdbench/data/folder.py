"""Folders of pictures -> square uint8 tensors: any image folder, and Tiny ImageNet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import listing
from kdbench.data.decode import below, count, decode, fits, notes
from kdbench.data.errors import DataMissing, shown, why
from kdbench.data.listing import Aside, Found

__all__ = ["Arrays", "DataMissing", "read_folder", "read_tiny_imagenet"]

#: Training images and labels, test images and labels, names of the classes, what there is to say.
Arrays = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...], tuple[str, ...]]
Pictures = list[tuple[str, int]]  # path, label
TESTS = ("val", "test")


@dataclass(frozen=True)
class Listed:
    """Picture files of both parts and their labels: a data set before a picture is looked at."""

    home: Path
    names: tuple[str, ...]  # of the classes, in the order of the labels
    train: Pictures
    test: Pictures
    aside: Aside
    said: tuple[str, ...] = ()
    second: str = "val"  # what the test part is called

    @property
    def files(self) -> list[str]:
        """Of training, then test."""
        return [path for path, _ in (*self.train, *self.test)]

    def labels(self) -> tuple[Tensor, Tensor]:
        """(N,) int64 of training and test."""
        labels = torch.tensor([label for _, label in (*self.train, *self.test)], dtype=torch.int64)
        return labels[: len(self.train)], labels[len(self.train) :]

    def notes(self, remarks: Mapping[str, Sequence[int]], digests: Sequence[bytes]) -> tuple[str, ...]:
        """All that is to be said once every picture was looked at.

        Args:
            remarks: keys of pictures.REMARKS -> positions in ``files``.
            digests: SHA-256 of each file.
        """
        said = [*self.said, *notes(remarks, self.files, self.home)]
        said += _doubles(self.home, self.train, self.test, digests, self.second)
        folded = Counter(name.casefold() for name in self.names)
        if alike := [name for name in self.names if folded[name.casefold()] > 1]:
            said.append(f"classes that differ in upper and lower case only: {', '.join(alike)}")
        if left_out := self.aside.sentence():
            said.append(left_out)
        return tuple(said)

    def arrays(self, size: int) -> Arrays:
        """Both parts decoded into memory.

        Raises:
            DataMissing: a picture cannot be used.
            ValueError: it would take more than half of the free memory.
        """
        files, n = self.files, len(self.train)
        fits(self.home, len(files), size)
        decoded = decode(files, size)
        train, test = self.labels()
        said = self.notes(decoded.remarks, decoded.digests)
        return decoded.images[:n], train, decoded.images[n:], test, self.names, said


def read_folder(path: Path, size: int) -> Arrays:
    """PATH/train/<class>/* and PATH/val/<class>/* (or test) -> train and test tensors.

    Pictures are decoded by the rules of ``kdbench.data.pictures``, scaled so that the shorter side is ``size``
    pixels, then cut to the middle.

    Raises:
        DataMissing: a folder or a class is missing, or a picture cannot be used.
        ValueError: it would take more than half of the free memory.

    >>> from PIL import Image
    >>> for part, grey in (("train/cat", 10), ("train/dog", 20), ("val/cat", 30), ("val/dog", 40)):
    ...     Path("pets", part).mkdir(parents=True)
    ...     Image.new("RGB", (40, 32), (grey, grey, grey)).save(Path("pets", part, "1.png"))
    >>> images, labels, *_ = read_folder(Path("pets"), 32)
    >>> images.shape, labels
    (torch.Size([2, 3, 32, 32]), tensor([0, 1]))
    """
    return list_folder(path).arrays(size)


def list_folder(path: Path, tests: Sequence[str] = TESTS) -> Listed:
    """The pictures of such a folder, unread; ``tests`` are names of the folder that is tested on, the best first.

    Raises:
        DataMissing: a folder or a class is missing.
    """
    try:
        return _list_folder(path, tests)
    except OSError as error:
        raise DataMissing(f"the image folder {shown(path)} cannot be read: {why(error)}") from error


def _list_folder(path: Path, known: Sequence[str]) -> Listed:
    tests = [path / name for name in known if os.path.isdir(path / name)]
    if not os.path.isdir(path / "train") or not tests:
        raise DataMissing(_no_image_folder(path))
    aside = Aside(path)
    train, test = listing.classes(path / "train", aside), listing.classes(tests[0], aside)
    for name, found in [*train.items(), *test.items()]:
        if not found.pictures and found.others:
            raise DataMissing(
                f"the class folder {shown(found.folder)} has no picture: of its files ({found.others:,}) none ends as"
                f" pictures do (.jpg, .png, .gif, .tif, ...); convert them, or remove the class {name}"
            )
    for name in sorted(set(train) | set(test)):  # empty wherever it is: left out
        if all(not half[name].pictures for half in (train, test) if name in half):
            for half in (train, test):
                if gone := half.pop(name, None):
                    aside.add("empty", gone.folder)
    _same_classes(path / "train", train, tests[0], test)
    others = tests[1:] if known is TESTS else []
    said = ("the folder test is there, too, and is not used, because val is",) if others else ()
    return Listed(path, tuple(train), _labelled(train), _labelled(test), aside, said, tests[0].name)


def read_tiny_imagenet(root: Path) -> Arrays:
    """``list_tiny_imagenet`` decoded into memory, 64 px.

    >>> read_tiny_imagenet(Path("nowhere"))
    Traceback (most recent call last):
    kdbench.data.errors.DataMissing: Tiny ImageNet is not in nowhere: unpack tiny-imagenet-200.zip ...
    """
    return list_tiny_imagenet(root).arrays(64)


def list_tiny_imagenet(root: Path) -> Listed:
    """Tiny ImageNet as distributed (val/images and val_annotations.txt) or as an image folder.

    Raises:
        DataMissing: not there, or a picture cannot be read.

    >>> read_tiny_imagenet(Path("no such folder"))
    Traceback (most recent call last):
    kdbench.data.errors.DataMissing: Tiny ImageNet is not in no such folder: unpack tiny-imagenet-200.zip ...
    """
    homes = [root / name for name in ("tiny-imagenet-200", "tiny-imagenet") if os.path.isdir(root / name / "train")]
    if not homes:
        raise DataMissing(
            f"Tiny ImageNet is not in {shown(root)}: unpack tiny-imagenet-200.zip (http://cs231n.stanford.edu/"
            "tiny-imagenet-200.zip) there, or name the folder that has it with --data-dir or KDBENCH_DATA"
        )
    home = homes[0]
    if not (home / "val" / "val_annotations.txt").is_file():
        return list_folder(home)
    try:
        aside = Aside(home)
        train = listing.classes(home / "train", aside)
        if bare := [found.folder for found in train.values() if not found.pictures]:
            raise DataMissing(f"the class folder {shown(bare[0])} has no picture; unpack tiny-imagenet-200.zip anew")
        _enough(home / "train", train)
        test = _annotated(home, list(train), aside)
    except OSError as error:
        raise DataMissing(f"{shown(home)} cannot be read: {why(error)}") from error
    return Listed(home, tuple(train), _labelled(train), test, aside)


def _annotated(home: Path, names: Sequence[str], aside: Aside) -> Pictures:
    """The pictures of val/images, in the order of val_annotations.txt."""
    file, folder = home / "val" / "val_annotations.txt", home / "val" / "images"
    if not os.path.isdir(folder):
        raise DataMissing(f"there is no folder {shown(folder)}; unpack tiny-imagenet-200.zip anew")
    label_of = {name: label for label, name in enumerate(names)}
    test: Pictures = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        picture, tab, rest = line.partition("\t")
        name = rest.split("\t")[0]
        if not tab or not name or picture in ("", ".", "..") or os.path.basename(picture) != picture:
            raise DataMissing(f"line {number} of {shown(file)} is not a picture, a tab and a class: {shown(line[:60])}")
        if name not in label_of:
            raise DataMissing(f"{shown(file)} names the class {shown(name)}, which has no folder in {home / 'train'}")
        test.append((str(folder / picture), label_of[name]))
    if not test:
        raise DataMissing(f"{shown(file)} names no picture")
    for path in sorted(set(listing.pictures(folder, aside)) - {path for path, _ in test}):
        aside.add("unnamed", path)
    return test


def _no_image_folder(path: Path) -> str:
    needs = "an image folder has train/<class>/* and val/<class>/* (or test/<class>/*)"
    if not os.path.exists(path):
        return f"there is no folder {shown(path)}; {needs}"
    if not os.path.isdir(path):
        return f"{shown(path)} is no folder; {needs}"
    here = sorted(name for name in os.listdir(path) if os.path.isdir(path / name) and not name.startswith("."))
    has = f"has {', '.join(map(shown, here[:5]))}{', ...' if here[5:] else ''}" if here else "has no folder in it"
    return f"{shown(path)} is no image folder: it {has}, and {needs}"


def _same_classes(train: Path, first: Mapping[str, Found], test: Path, second: Mapping[str, Found]) -> None:
    odd = sorted(set(first) ^ set(second))
    if odd:
        hint = "; upper and lower case count" if len({name.casefold() for name in odd}) < len(odd) else ""
        raise DataMissing(
            f"{shown(train)} and {shown(test)} have different classes: {', '.join(odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''} {'is' if len(odd) == 1 else 'are'} in one of them"
            f" only{hint}"
        )
    for name in first:
        for half in (first, second):
            if not half[name].pictures:
                raise DataMissing(f"the class folder {shown(half[name].folder)} has no picture, its namesake has some")
    _enough(train, first)


def _enough(train: Path, found: Mapping[str, Found]) -> None:
    if len(found) < 2:
        raise DataMissing(
            f"{shown(train)} has {len(found)} class folder{'' if len(found) == 1 else 's'} with pictures;"
            " classification takes two or more"
        )


def _labelled(found: Mapping[str, Found]) -> Pictures:
    return [(path, label) for label, one in enumerate(found.values()) for path in one.pictures]


def _doubles(home: Path, train: Pictures, test: Pictures, digests: Sequence[bytes], second: str) -> list[str]:
    """Sentences about files that are there more than once, byte for byte."""
    n, found = len(train), []
    seen = set(digests[:n])
    if both := [path for (path, _), digest in zip(test, digests[n:], strict=True) if digest in seen]:
        found.append(f"{count(len(both))} of {second} lie in train, too, byte for byte ({below(both[0], home)})")
    labels: dict[bytes, int] = {}  # of the first file of its bytes; -1: they lie in several classes
    for (_, label), digest in zip([*train, *test], digests, strict=True):
        if labels.setdefault(digest, label) != label:
            labels[digest] = -1
    if torn := [path for (path, _), digest in zip([*train, *test], digests, strict=True) if labels[digest] < 0]:
        found.append(f"{count(len(torn))} lie in more than one class, byte for byte ({below(torn[0], home)})")
    if copies := n - len(seen):
        found.append(f"{count(copies)} of train are copies of another one there, byte for byte")
    return found
