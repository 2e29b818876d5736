"""Another data set than a network was trained on, at the size that it sees."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2.functional import resize

from kdbench import data
from kdbench.data import DataMissing, Dataset
from kdbench.data.names import canonical
from kdbench.data.sets import NAMES
from kdbench.probes.probe import Context, NotApplicable

#: What is tried where nobody names a data set: what the papers transfer to.
USUAL = ("stl10", "tinyimagenet")


def canonical_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they are kept, each once.

    Raises:
        ValueError: none, or one that is no data set's.
    """
    if not names:
        raise ValueError(f"name a data set: {', '.join(NAMES)}")
    return tuple(dict.fromkeys(map(canonical, names)))


def fetch(name: str, key: str, side: int, limit: int, context: Context) -> Dataset:
    """A data set with images of ``side`` pixels and at most ``limit`` training images (0: all).

    ``key`` is the setting that names it: where it was not the user's, data that are not here are no fault.

    Raises:
        ValueError: it is not here, and the user named it; or there is no such set.
        NotApplicable: it is not here.
    """
    try:
        return _sized(name, context.data_dir, side, limit, key in context.asked)
    except DataMissing as error:
        if key in context.asked:
            raise
        raise NotApplicable(f"{name} is not here, which --set {key}=NAME replaces ({error})") from error


@lru_cache(maxsize=2)
def _sized(name: str, root: Path | None, side: int, limit: int, download: bool) -> Dataset:
    whole = data.load(name, root, download=download)
    if limit:
        whole = data.limit(whole, limit)
    if whole.image_shape[-2:] == (side, side):
        return whole
    return replace(
        whole, train_images=_resized(whole.train_images, side), test_images=_resized(whole.test_images, side)
    )


def _resized(images: Tensor, side: int) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 3, side, side), bilinear with antialiasing, some thousand at a time."""
    import torch

    parts: Tensor = torch.cat([resize(part, [side, side], antialias=True) for part in images.split(2000)])
    return parts


def short(name: str) -> str:
    """How a table calls a data set: an image folder by its last name."""
    kind, _, rest = name.partition(":")
    return Path(rest.rpartition("@")[0] or rest).name if kind == "imagefolder" else name
