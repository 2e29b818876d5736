"""How networks are trained, in one line: for whoever looks before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sentence(recipe: Mapping[str, Any], rates: Sequence[float]) -> str:
    """A recipe as ``Recipe.facts_for`` gives it; ``rates`` are the learning rates of all networks that follow it.

    >>> facts = {"batch_size": 64, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "milestones": [150, 180]}
    >>> facts |= {"gamma": 0.1, "crop_padding": 4, "flip": True, "ema": 0.999}
    >>> sentence(facts, [0.05, 0.01])
    'batch 64; sgd, rate 0.01 or 0.05, x 0.1 after epochs 150, 180; weight decay 0.0005; crop of 4 px, flip; ema 0.999'
    """
    name = recipe.get("optimizer", "sgd")
    rate = " or ".join(f"{one:g}" for one in sorted(set(rates)))
    parts = [f"batch {recipe['batch_size']}" + _of(recipe, "accumulate", " x {} for a step")]
    schedule = recipe.get("schedule", "step")
    drops = f"x {recipe['gamma']:g} after epochs {', '.join(map(str, recipe['milestones']))}"
    how = schedule if schedule != "step" else drops if recipe["milestones"] else "constant"
    how += _of(recipe, "warmup_epochs", ", {} epochs of warm-up") + _of(recipe, "min_lr", ", not below {:g}")
    parts.append(f"{name}{', nesterov' if recipe['nesterov'] else ''}, rate {rate}, {how}")
    parts.append(f"weight decay {recipe['weight_decay']:g}")
    augment = recipe.get("augment", "crop")
    moved = f"crop of {recipe['crop_padding']} px" if recipe["crop_padding"] else "no crop"
    crop = augment if augment != "crop" or recipe.get("image_size") else moved
    parts.append(crop + (", flip" if recipe["flip"] else "") + _of(recipe, "image_size", ", seen at {} px"))
    words = {
        "mixup": "mixup {:g}",
        "cutmix": "cutmix {:g}",
        "random_erasing": "random erasing {:g}",
        "label_smoothing": "label smoothing {:g}",
        "drop_path": "drop path {:g}",
        "clip_grad": "gradients clipped at {:g}",
        "gradients": "gradients by {}",
        "ema": "ema {:g}",
        "validation": "{:.0%} held out to validate on",
        "fraction": "{:g} of the training images",
    }
    parts += [said for key, text in words.items() if (said := _of(recipe, key, text))]
    return "; ".join([*parts, *_noise(recipe)])


def _noise(recipe: Mapping[str, Any]) -> list[str]:
    """Labels and pictures that are not as they were."""
    parts = []
    if recipe.get("label_noise"):
        how = ", ".join(recipe.get("label_noise_map", ())) or "drawn from all classes"
        parts.append(f"{recipe['label_noise']:g} of the labels noisy ({how})")
    parts += [_of(recipe, "draw", "draw {}")]
    kinds = [_of(recipe, "input_noise", "noise {:g}"), _of(recipe, "salt_and_pepper", "salt and pepper {:g}")]
    if any(kinds):
        side = "the student's pictures" if recipe.get("noise_side") == "student" else "all training pictures"
        parts.append(f"{' and '.join(filter(None, kinds))} on {side}")
    return [part for part in parts if part]


def _of(recipe: Mapping[str, Any], key: str, text: str) -> str:
    return text.format(recipe[key]) if recipe.get(key) else ""
