"""What becomes of a picture before a network sees it: ``crop``, ``rrc``, and timm's policies after either.

The word is that of ``recipe.augment``: the geometry, then a policy, joined by a plus: ``crop``, ``rrc``,
``rrc+rand-m9-mstd0.5-inc1``, ``crop+augmix-m3``. A policy alone follows ``crop``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.data.errors import why
from kdbench.utils.wording import quoted

GEOMETRIES = ("crop", "rrc")
#: Share of a picture's area, and ratio of the sides, that a random resized crop takes (Szegedy et al. 2015).
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
#: What timm fills with where a policy moves a picture: the grey of ImageNet.
FILL = (124, 116, 104)
#: A setting of a policy: what timm finds no number in, it passes over in silence.
_SECTION = re.compile(r"[a-z]+[0-9]+(\.[0-9]+)?|t[a-z]+")


@dataclass(frozen=True)
class Augment:
    """One word, taken apart.

    >>> Augment.of("rrc+rand-m9-mstd0.5-inc1")
    Augment(geometry='rrc', policy='rand-m9-mstd0.5-inc1')
    >>> Augment.of("crop").plain
    True
    """

    geometry: str = "crop"
    policy: str = ""

    @classmethod
    def of(cls, word: str) -> Augment:
        """Of ``recipe.augment``.

        Raises:
            ValueError: no such geometry, or a policy that timm does not know.
        """
        first, _, rest = word.partition("+")
        found = cls(first, rest) if first in GEOMETRIES else cls("crop", word)
        if found.policy:
            policy(found.policy, 32)
        elif word != found.geometry:
            raise ValueError(f"augment={word!r} ends in a plus; write a policy of timm's after it, or leave it out")
        return found

    @property
    def plain(self) -> bool:
        """Whether it is the random crop alone."""
        return self == Augment()


@cache
def policy(word: str, size: int) -> Callable[[Any], Any]:
    """timm's policy of a word such as ``rand-m9-mstd0.5-inc1``: a picture of Pillow's -> one.

    Raises:
        ValueError: timm does not know it.
    """
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    hparams = {"translate_const": int(size * 0.45), "img_mean": FILL}
    kinds = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    kind = kinds.get(word.split("-")[0], auto_augment_transform)
    try:
        if silent := [part for part in word.split("-")[1:] if not _SECTION.fullmatch(part)]:
            raise ValueError(f"{quoted(silent[0])} is no setting with its number, such as m9")
        made: Callable[[Any], Any] = kind(word, hparams)
    except Exception as error:  # asserts, and whatever a wrong number makes of them
        raise ValueError(
            f"augment={word!r} is neither crop nor rrc nor a policy of timm's ({why(error)}); write crop, rrc,"
            " rrc+rand-m9-mstd0.5-inc1, rrc+original or rrc+augmix-m3"
        ) from None
    for op in _ops(made):
        op.aug_fn = partial(_keeping, op.aug_fn) if op.name.startswith("Posterize") else op.aug_fn
    return made


def _ops(made: Any) -> Iterator[Any]:
    """The operations of a policy: a list of them, or a list of lists."""
    found: Any = getattr(made, "ops", None) or getattr(made, "policy", None) or ()
    for one in found:
        yield from one if isinstance(one, list | tuple) else (one,)


def _keeping(posterize: Callable[..., Any], picture: Any, bits: int, **words: Any) -> Any:
    """Posterize to 0 bits, which timm draws at its highest level, is black: Pillow refuses it from 13 on."""
    return posterize(picture, bits, **words) if bits > 0 else picture.point(lambda _: 0)


def resized_crop(image: Tensor, size: int) -> Tensor:
    """A random resized crop of (C, H, W) uint8, size x size; drawn from torch's default generator."""
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms.v2 import functional as F

    top, left, height, width = RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))
    cut: Tensor = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return cut


def fit(images: Tensor, size: int) -> Tensor:
    """(B, C, S, S) uint8 to what is tested on: the middle square of larger pictures, smaller ones scaled up."""
    side = images.shape[-1]
    if side == size:
        return images
    if side > size:
        first = (side - size) // 2
        return images[..., first : first + size, first : first + size]
    from torchvision.transforms.v2 import functional as F

    scaled: Tensor = F.resize(images, [size, size], antialias=True)
    return scaled


def with_policy(image: Tensor, word: str) -> Tensor:
    """timm's policy on (C, H, W) uint8; drawn from Python's and numpy's generators."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    changed = policy(word, image.shape[-1])(picture)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)
