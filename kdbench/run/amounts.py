"""How much there is to do, without reading the data: images of a suite, epochs that a stopped cell has before it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kdbench import registry
from kdbench.engine import checkpoint
from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.lanes import epochs
from kdbench.run.session import Job
from kdbench.utils.gradient_rules import SUM, parse

#: Training and test images of the data sets that everybody has alike; the first is taken where nothing is known.
KNOWN = {
    "cifar100": (50_000, 10_000),
    "cifar10": (50_000, 10_000),
    "digits": (1000, 797),
    "tinyimagenet": (100_000, 10_000),
}
#: Files of a data set whose presence is enough of a sign that it is there, by name.
_SIGNS = {"cifar100": "cifar-100-python/train", "cifar10": "cifar-10-batches-py/data_batch_1"}
#: Pictures of a folder that are read to see whether they can be; more are counted only.
READ = 5_000


class Images(NamedTuple):
    """Numbers of images, and a sentence where the data are not there."""

    train: int
    test: int
    missing: str = ""


def images(job: Job, *, look: bool) -> Images:
    """Images of the suite, of the training images no more than the request takes; ``look``: whether the data are there.

    A small folder of pictures is read, a large one is counted; CIFAR's files are not read.
    """
    found = _images(job, look=look)
    return found._replace(train=min(found.train, job.request.limit_train or found.train))


def _images(job: Job, *, look: bool) -> Images:
    from kdbench import data
    from kdbench.data.sets import default_root

    word = job.suite.dataset
    usual = KNOWN.get(word, KNOWN["cifar100"])
    train, test = (_pictures(job, part) for part in ("train", "val"))
    if train > READ or (train and not look):
        return Images(train, test)
    sign = _SIGNS.get(word)
    if not look or word == "digits" or (sign and ((job.request.data_dir or default_root()) / sign).is_file()):
        return Images(*usual)
    try:
        read = data.load(word, job.request.data_dir, download=False)
    except ValueError as error:
        return Images(*usual, f"the data are not there yet: {error}")
    return Images(len(read.train_labels), len(read.test_labels))


def _pictures(job: Job, part: str) -> int:
    """Pictures of one part of a folder, counted and not read; 0: there is no such folder, or it will be refused."""
    from kdbench.data import listing, names, sets

    word = job.suite.dataset
    root = job.request.data_dir or sets.default_root()
    try:
        found = names.image_folder(word)
    except ValueError:
        return 0
    if word.partition("@")[0] in ("cinic10", "cub200", "imagenet"):
        return _listed(word, root, part)
    homes = [found.path] if found else []
    homes += [root / name for name in ("tiny-imagenet-200", "tiny-imagenet")] if word == "tinyimagenet" else []
    for home in homes:
        if part == "val" and not found:
            return KNOWN["tinyimagenet"][1]
        try:
            classes = listing.classes(home / part, listing.Aside(home))
        except (ValueError, OSError):
            continue
        return sum(len(one.pictures) for one in classes.values())
    return 0


def _listed(word: str, root: Path, part: str) -> int:
    """Pictures of a published data set that lie there; 0: none do."""
    from kdbench.data.selection import listed

    try:
        found = listed(word, root)
    except (ValueError, OSError):
        return 0
    return 0 if found is None else len(found[0].train if part == "train" else found[0].test)


def share_left(out: Path, cell: Cell) -> float:
    """Share of its epochs that a cell which was stopped has before it; 1 where there is no checkpoint to go on from."""
    whole = epochs(cell)
    with suppress(OSError, ValueError, checkpoint.CheckpointDamaged):
        stage, epoch = checkpoint.progress(grid.files(out, cell).checkpoint)
        behind = epoch + (whole - cell.epochs if stage == "train" else 0)
        return max(0.0, 1 - behind / whole)
    return 1.0


def passes(cell: Cell) -> int:
    """Backward passes of a step of the main stage: two where the recipe's gradients have momenta of their own.

    >>> from kdbench.run.session import Request, resolve
    >>> words = {"suite": "digits", "seeds": "1", "device": "cpu", "overrides": ("recipe.gradients=dot",)}
    >>> {cell.method: passes(cell) for cell in resolve(Request("kd,student", "resnet20:resnet8", **words)).cells}
    {'kd': 2, 'student': 1}
    """
    rule = parse(cell.recipe.get("gradients", SUM))
    return 2 if rule and not rule.scaled and registry.get(cell.method).needs_teacher else 1
