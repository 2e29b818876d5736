"""What a recipe makes of the training images: held out, fewer of them, some under another label.

``recipe.validation`` is taken off first, as without the others, and keeps its true labels. ``recipe.fraction`` is a
share of what is left, each class keeping its own (Xu et al., SSKD, ECCV 2020, and Yang et al., HSAKD, IJCAI 2021, take
25, 50 and 75 %). ``recipe.label_noise`` is a share of all training images, each class keeping its own, whose label is
drawn anew; it is decided before anything is taken off, so an image has one label in every run.

Which images, and which labels, follows from the true labels, from constants here and from ``recipe.draw`` alone: the
same for every method, pair and seed. A smaller share lies inside a larger one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdbench.data.sets import Dataset
from kdbench.data.split import HeldOut, held_out_count, held_out_places, hold_out
from kdbench.data.stratified import stratified
from kdbench.utils.draws import draw_seed
from kdbench.utils.wording import quoted

#: Words of ``recipe.label_noise_map`` that stand alone.
OTHERS, NEXT = "others", "next"


def trained_on(images: Dataset, recipe: Mapping[str, Any]) -> tuple[Dataset, HeldOut | None]:
    """What a student of this recipe is trained on, and what is held out of it; test images stay as they are.

    Args:
        images: all of them, with their true labels.
        recipe: as ``Recipe.facts_for`` gives it.

    Raises:
        ValueError: too few images would be left, or the map of the labels is not one of these classes.

    >>> from kdbench.data.sets import load
    >>> part, held_out = trained_on(load("digits"), {"fraction": 0.25, "validation": 0.1, "label_noise": 0.2})
    >>> len(part.train_labels), len(held_out.labels)
    (225, 100)
    """
    share, draw = recipe.get("validation", 0.0), recipe.get("draw", 0)
    if recipe.get("fraction", 1.0) == 1 and not recipe.get("label_noise"):
        return hold_out(images, share)
    labels = images.train_labels
    places, held_out = torch.arange(len(labels)), None
    if share:
        places, others = held_out_places(labels, share)
        held_out = HeldOut(images.train_images[others], labels[others])
    count = trained_count(len(labels), recipe)
    if count < len(places):
        places = places[stratified(labels[places], count, draw_seed("fraction", draw))]
    seen = noisy(images, recipe)[places]
    return replace(images, train_images=images.train_images[places], train_labels=seen), held_out


def trained_count(n: int, recipe: Mapping[str, Any]) -> int:
    """How many of n training images a student of this recipe is trained on.

    Raises:
        ValueError: fewer than two.

    >>> trained_count(50_000, {"validation": 0.1, "fraction": 0.25})
    11250
    """
    rest = n - held_out_count(n, recipe.get("validation", 0.0))
    share = recipe.get("fraction", 1.0)
    if share == 1:
        return rest
    count = int(rest * share + 0.5)
    if count < 2:
        raise ValueError(f"recipe.fraction={share:g} of {rest} training images leaves {count} to train on; give more")
    return count


def noisy(images: Dataset, recipe: Mapping[str, Any]) -> Tensor:
    """(N,) labels of all training images as ``recipe.label_noise`` has them; the true ones without it.

    Without a map a chosen image's label is drawn from all classes, its own included, as in SemCKD's release: of K
    classes, 1/K of the chosen keep their label.

    Raises:
        ValueError: the map is not one of these classes.

    >>> from kdbench.data.sets import load
    >>> digits = load("digits")
    >>> swapped = noisy(digits, {"label_noise": 0.5, "label_noise_map": ["1:7"]})
    >>> before, after = digits.train_labels.bincount(), swapped.bincount()
    >>> (before - after).tolist()
    [0, 51, 0, 0, 0, 0, 0, -51, 0, 0]
    """
    labels, share, draw = images.train_labels, recipe.get("label_noise", 0.0), recipe.get("draw", 0)
    if not share:
        return labels
    words = recipe.get("label_noise_map") or ()
    k = images.num_classes
    seed = draw_seed("label noise", draw)
    if tuple(words) in ((), (OTHERS,)):
        moves = torch.randint(0 if not words else 1, k, (len(labels),), generator=torch.Generator().manual_seed(seed))
        drawn = (labels + moves) % k
    else:
        target = torch.arange(k) + 1 if tuple(words) == (NEXT,) else _target(words, images.classes)
        drawn = target[labels] % k
    # Classes that the map leaves alone have no share in the count.
    places = (drawn != labels).nonzero().flatten() if words else torch.arange(len(labels))
    chosen = places[stratified(labels[places], int(len(places) * share + 0.5), seed)]
    changed = labels.clone()
    changed[chosen] = drawn[chosen]
    return changed


def check(recipe: Mapping[str, Any]) -> None:
    """What of the settings can be told wrong without the data; ``recipe`` as ``Recipe.model_dump`` gives it.

    Raises:
        ValueError: a setting that would change nothing, or a map that is none.

    >>> check({"label_noise": 0.2, "label_noise_map": ("cat:dog", "dog:cat")})
    >>> check({"label_noise": 0.2, "label_noise_map": ("cat",)})
    Traceback (most recent call last):
    ValueError: recipe.label_noise_map takes FROM:TO of two classes, by name or number, or others or next, not 'cat'
    """
    words = tuple(recipe.get("label_noise_map") or ())
    if words and not recipe.get("label_noise"):
        raise ValueError("recipe.label_noise_map says where labels go, and recipe.label_noise is 0; set it, too")
    if recipe.get("draw") and not recipe.get("label_noise") and recipe.get("fraction", 1.0) == 1:
        raise ValueError("recipe.draw chooses a draw of recipe.fraction or recipe.label_noise; set one of them, too")
    if recipe.get("noise_side", "both") != "both" and not (recipe.get("input_noise") or recipe.get("salt_and_pepper")):
        raise ValueError("recipe.noise_side needs recipe.input_noise or recipe.salt_and_pepper; set one of them, too")
    if words not in ((OTHERS,), (NEXT,)):
        for word in words:
            _halves(word)


def _halves(word: str) -> tuple[str, str]:
    here, colon, there = (part.strip() for part in word.partition(":"))
    if not (here and colon and there):
        raise ValueError(
            f"recipe.label_noise_map takes FROM:TO of two classes, by name or number, or {OTHERS} or {NEXT}, not"
            f" {quoted(word)}"
        )
    return here, there


def _target(words: Sequence[str], classes: Sequence[str]) -> Tensor:
    """(K,) int64: the class that each goes to, itself where the map says nothing."""
    target, said = torch.arange(len(classes)), set[int]()
    for word in words:
        here, there = (_class(name, classes) for name in _halves(word))
        if here in said:
            raise ValueError(f"recipe.label_noise_map sends class {quoted(classes[here])} to two others; one is taken")
        said.add(here)
        target[here] = there
    if bool((target == torch.arange(len(classes))).all()):
        raise ValueError("recipe.label_noise_map sends every class to itself, so no label would change")
    return target


def _class(name: str, classes: Sequence[str]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(classes):
        return int(name)
    raise ValueError(
        f"recipe.label_noise_map: there is no class {quoted(name)}; there are {len(classes)}, from"
        f" {quoted(classes[0])} to {quoted(classes[-1])}, which may also be written 0 to {len(classes) - 1}"
    )
