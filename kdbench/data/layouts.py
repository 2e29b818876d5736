"""Published data sets as they are unpacked: where their pictures lie, before one is read.

Each function lists one data set below the folder of data sets. What has no square pictures of one size is cut to
squares of the size that follows ``@`` in its word, ``imagenet@256``; see ``names.SIZES`` for the usual one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kdbench.data.errors import DataMissing, shown, why
from kdbench.data.folder import Listed, Pictures, list_folder, list_tiny_imagenet
from kdbench.data.listing import Aside


def _home(root: Path, title: str, names: tuple[str, ...], inside: str, get: str) -> Path:
    """The first folder of these names that has ``inside``.

    Raises:
        DataMissing: there is none.
    """
    for name in names:
        if os.path.exists(root / name / inside):
            return root / name
    raise DataMissing(
        f"{title} is not in {shown(root)}: there is no {names[0]}/{inside}; {get}, or name the folder that has it with"
        " --data-dir or KDBENCH_DATA"
    )


def list_cinic10(root: Path) -> Listed:
    """CINIC-10 (Darlow et al. 2018), 32 px: 90,000 of train and of test; its third part, valid, is not used.

    Raises:
        DataMissing: it is not there.
    """
    get = "unpack CINIC-10.tar.gz (https://doi.org/10.7488/ds/2448) into a folder of that name"
    home = _home(root, "CINIC-10", ("CINIC-10", "cinic-10", "cinic10"), "train", get)
    return list_folder(home, ("test",))


def list_imagenet(root: Path) -> Listed:
    """ImageNet-1k as torchvision lays it out: train/<wnid>/*, val/<wnid>/*.

    Raises:
        DataMissing: it is not there.
    """
    get = "unpack ILSVRC2012 into train/<wnid>/* and val/<wnid>/* there, as torchvision.datasets.ImageNet does"
    return list_folder(_home(root, "ImageNet", ("imagenet", "ImageNet", "ILSVRC2012"), "train", get), ("val",))


def list_cub200(root: Path) -> Listed:
    """CUB-200-2011 (Wah et al. 2011) as distributed: images.txt, image_class_labels.txt, train_test_split.txt.

    Raises:
        DataMissing: it is not there, or its lists do not go together.
    """
    get = "unpack CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158) there"
    home = _home(root, "CUB-200-2011", ("CUB_200_2011",), "images.txt", get)
    try:
        images, labels = _table(home / "images.txt"), _table(home / "image_class_labels.txt")
        split, classes = _table(home / "train_test_split.txt"), _table(home / "classes.txt")
    except OSError as error:
        raise DataMissing(f"{shown(home)} cannot be read: {why(error)}; unpack CUB_200_2011.tgz anew") from error
    names = [classes[key] for key in sorted(classes, key=_number)]
    label_of = {key: label for label, key in enumerate(sorted(classes, key=_number))}
    halves: dict[str, Pictures] = {"1": [], "0": []}
    for key, path in images.items():
        label, half = labels.get(key, ""), split.get(key, "")
        if label not in label_of or half not in halves or os.path.isabs(path) or ".." in path.split("/"):
            raise DataMissing(f"the lists of {shown(home)} do not go together at image {shown(key)}; unpack it anew")
        halves[half].append((str(home / "images" / path), label_of[label]))
    if not halves["1"] or not halves["0"]:
        raise DataMissing(f"the lists of {shown(home)} name no pictures to train on or to test on; unpack it anew")
    return Listed(home, tuple(names), halves["1"], halves["0"], Aside(home), second="the test part")


def _table(file: Path) -> dict[str, str]:
    """Lines of a key, a blank and a value."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {key: value for key, _, value in (line.strip().partition(" ") for line in lines if line.strip())}


def _number(key: str) -> tuple[int, str]:
    return (int(key) if key.isdecimal() else 0), key


#: Data sets that are folders of pictures: how they are listed.
LISTS: dict[str, Callable[[Path], Listed]] = {
    "cinic10": list_cinic10,
    "cub200": list_cub200,
    "imagenet": list_imagenet,
    "tinyimagenet": list_tiny_imagenet,
}
