"""Robustness: accuracy on corrupted test images, level by level, and the area under these curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from kdbench.data.stratified import stratified
from kdbench.probes import checked, cifar_c
from kdbench.probes.corruption import LEVELS, STRENGTHS, corrupt
from kdbench.probes.probe import Context, Found, Probe, Settings
from kdbench.probes.subject import Subject
from kdbench.record import settings_hash
from kdbench.utils.seeding import stable_seed
from kdbench.utils.wording import quoted

#: Images that are corrupted at once.
CHUNK = 1000
#: Stands among the corruptions for the files that ``--cifar-c`` names.
FILES = "cifar-c"

#: Of corrupted images that are kept for the next network.
BYTES = 10**9

Answer = Callable[[Tensor], Tensor]


class Make(Protocol):
    """As ``kdbench.probes.corruption.corrupt``."""

    def __call__(self, images: Tensor, kind: str, level: int, *, seed: int = 0, first: int = 0) -> Tensor:
        """Corrupted images, (N, 3, H, W) uint8."""


class RobustnessSettings(Settings):
    """Which ``corruptions``, and the ``seed`` of what they draw.

    ``images``: of so many test images, each class its share; 0: all.
    """

    corruptions: tuple[str, ...] = tuple(STRENGTHS)
    images: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("images")
    @classmethod
    def _several(cls, images: int) -> int:
        if images == 1:
            raise ValueError("accuracy is that of 2 images or more, or of all of them, which is 0")
        return images

    @field_validator("corruptions")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in STRENGTHS and name != FILES:
                raise ValueError(f"no corruption {quoted(name)}; there are {', '.join([*STRENGTHS, FILES])}")
        if not names:
            raise ValueError(f"name some of {', '.join([*STRENGTHS, FILES])}")
        return tuple(dict.fromkeys(names))


def robustness(
    answer: Answer,
    images: Tensor,
    labels: Tensor,
    corruptions: Sequence[str] = tuple(STRENGTHS),
    *,
    seed: int = 0,
    make: Make = corrupt,
) -> dict[str, list[float]]:
    """Top-1 in percent under every corruption at levels 0 (clean) to ``LEVELS``.

    Args:
        answer: (B, 3, H, W) uint8 images -> (B, K) logits.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        corruptions: of ``kdbench.probes.corruption.STRENGTHS``.
        seed: of what they draw; the same seed gives the same images, whatever the batches.
        make: makes the corrupted images, as ``corrupt`` does.

    Raises:
        ValueError: no such corruption, no images or not as many labels, or logits that are not finite.

    >>> import torch
    >>> images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    >>> def is_white(shown):
    ...     white = shown.float().mean(dim=(1, 2, 3)) / 255
    ...     return torch.stack([1 - white, white], dim=1)
    >>> robustness(is_white, images, torch.tensor([0, 1]), ["contrast"])
    {'contrast': [100.0, 100.0, 100.0, 100.0, 100.0, 100.0]}
    """
    labels = checked.classes(labels, len(images))
    clean = _top1(answer, images, labels)

    def under(kind: str, level: int) -> float:
        return _top1(answer, images, labels, lambda part, first: make(part, kind, level, seed=seed, first=first))

    return {kind: [clean, *(under(kind, level) for level in range(1, LEVELS + 1))] for kind in corruptions}


def area(curve: Sequence[float]) -> float:
    """The mean height of a curve over its levels, by the trapezoid rule: a constant is its own area.

    >>> area([100.0, 50.0, 0.0])
    50.0
    """
    return sum((left + right) / 2 for left, right in pairwise(curve)) / (len(curve) - 1)


def _top1(
    answer: Answer, images: Tensor, labels: Tensor, change: Callable[[Tensor, int], Tensor] | None = None
) -> float:
    right = 0
    for first, last in _chunks(len(images)):
        part = images[first:last]
        shown = part if change is None else change(part, first)
        logits = checked.finite(answer(shown), "its logits" if change is None else "its logits on corrupted images")
        right += int((logits.argmax(dim=1) == labels[first:last]).sum())
    return 100 * right / len(labels)


def _chunks(n: int) -> Iterator[tuple[int, int]]:
    """Parts of n images; none has a single one where there are more: a loader takes two."""
    first = 0
    while first < n:
        last = n if n - first <= CHUNK + 1 else first + CHUNK
        yield first, last
        first = last


class _Lent:
    """Corrupted images that one network after the other looks at, as far as ``BYTES`` hold them."""

    def __init__(self) -> None:
        self.of = ""
        self.kept: dict[tuple[object, ...], Tensor] = {}
        self.bytes = 0

    def make(self, key: str) -> Make:
        """``corrupt`` for the images that ``key`` names; those of another are let go."""
        if self.of != key:
            self.of, self.kept, self.bytes = key, {}, 0

        def made(images: Tensor, kind: str, level: int, *, seed: int = 0, first: int = 0) -> Tensor:
            of = (kind, level, seed, first, len(images))
            if (found := self.kept.get(of)) is None:
                found = corrupt(images, kind, level, seed=seed, first=first)
                if self.bytes + found.numel() <= BYTES:
                    self.kept[of] = found
                    self.bytes += found.numel()
            return found

        return made


_LENT = _Lent()


def _measure(subject: Subject, settings: RobustnessSettings, context: Context) -> Found:
    if settings.corruptions == (FILES,):
        return _of_files(subject, settings, context)
    chosen = _chosen(subject, settings)
    images, labels = subject.images.test_images[chosen], subject.labels[chosen]
    make = _LENT.make(f"{subject.images.fingerprint} {len(labels)} {settings.seed}")
    curves = robustness(subject.answers, images, labels, settings.corruptions, seed=settings.seed, make=make)
    # As the record has it: all images at once, not in parts.
    clean = 100 * float((subject.logits[chosen].argmax(dim=1) == labels).double().mean())
    for curve in curves.values():
        curve[0] = clean
    areas = {kind: area(curve) for kind, curve in curves.items()}
    summary: dict[str, float | None] = {"clean (%)": clean, "mean area (%)": sum(areas.values()) / len(areas)}
    rows: list[dict[str, bool | int | float | str | None]] = [
        {"corruption": kind, "level": level, "strength": STRENGTHS[kind][level - 1] if level else 0.0, "top1": top1}
        for kind, curve in curves.items()
        for level, top1 in enumerate(curve)
    ]
    return Found(summary | {f"{kind.replace('_', ' ')} (%)": value for kind, value in areas.items()}, rows)


def _chosen(subject: Subject, settings: RobustnessSettings) -> Tensor:
    """Places of the test images that are looked at."""
    n = len(subject.labels)
    if not 0 < settings.images < n:
        return torch.arange(n)
    return stratified(subject.labels, settings.images, stable_seed(settings.seed, "robustness"))


def _of_files(subject: Subject, settings: RobustnessSettings, context: Context) -> Found:
    """The mean accuracy of every corruption of CIFAR-C over its severities."""
    assert context.cifar_c is not None
    labels, chosen = subject.labels, _chosen(subject, settings)
    found: dict[str, list[float]] = {}
    for kind, _, images in cifar_c.parts(context.cifar_c, labels, subject.images.image_shape):
        found.setdefault(kind, []).append(_top1(subject.answers, images[chosen], labels[chosen]))
    clean = 100 * float((subject.logits[chosen].argmax(dim=1) == labels[chosen]).double().mean())
    return Found(
        {"clean (%)": clean, **_means(found)},
        [
            {"corruption": kind, "level": level, "strength": None, "top1": top1}
            for kind, curve in found.items()
            for level, top1 in enumerate([clean, *curve])
        ],
    )


def _means(found: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    means = {kind: sum(curve) / len(curve) for kind, curve in found.items()}
    counted = [mean for kind, mean in means.items() if kind not in cifar_c.EXTRA] or list(means.values())
    summary: dict[str, float | None] = {"mean (%)": sum(counted) / len(counted)}
    return summary | {f"{kind.replace('_', ' ')} (%)": mean for kind, mean in means.items()}


def _spread(settings: RobustnessSettings, context: Context) -> list[RobustnessSettings]:
    """Our own corruptions, and the files, where some were named."""
    own = tuple(name for name in settings.corruptions if name != FILES)
    parts = [settings.model_copy(update={"corruptions": own})] if own else []
    if context.cifar_c is not None:
        cifar_c.kinds(context.cifar_c)  # a folder that is not there is told once, not of every network
        parts.append(settings.model_copy(update={"corruptions": (FILES,)}))
    elif FILES in settings.corruptions:
        raise ValueError(f"robustness.corruptions names {FILES}, whose folder --cifar-c names")
    return parts


def _variant(settings: RobustnessSettings) -> str:
    words = ["CIFAR-C"] if settings.corruptions == (FILES,) else []
    return ", ".join([*words, *([f"{settings.images} images"] if settings.images else [])])


def _rests_on(settings: RobustnessSettings, subject: object, context: Context) -> dict[str, str]:
    if settings.corruptions != (FILES,):
        return {"strengths": settings_hash({kind: STRENGTHS[kind] for kind in settings.corruptions})}
    assert context.cifar_c is not None
    return {"cifar-c": cifar_c.fingerprint(context.cifar_c)}


PROBE = Probe(
    "robustness",
    RobustnessSettings,
    _measure,
    spread=_spread,
    rests_on=_rests_on,
    variant=_variant,
)
