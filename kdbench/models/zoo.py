"""Models by name: the 32-px zoo of the distillation literature, and all of timm."""

from __future__ import annotations

import difflib
import re

import timm

from kdbench.models.nets import mobilenetv2, resnet, resnet_bottleneck, shufflenetv1, shufflenetv2, vgg, wrn
from kdbench.models.nets._net import DOUBLE, ZOO, timm_name
from kdbench.models.tapped import Tapped

_FAMILIES = (resnet, wrn, vgg, resnet_bottleneck, mobilenetv2, shufflenetv1, shufflenetv2)  # importing enters them
_TIMM = "timm/"


def _plain(name: str) -> str:
    """Letters and digits only; the ways to write a name differ in the rest."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _longer(name: str) -> str:
    """Short forms of the zoo's names, written out: "wideresnet162" -> "wrn162"."""
    name = name.removeprefix("cifar")
    for written, ours in (("wideresnet", "wrn"), ("shufflenet", "shuffle"), ("mobilenetv205", "mobilenetv2")):
        name = name.replace(written, ours)
    return "mobilenetv2" if name == "mobilenet" else name


_BY_PLAIN = {_plain(name): name for name in ZOO}
assert len(_BY_PLAIN) == len(ZOO)
_PUBLISHED_DOUBLE = "resnet8x4_double"
_LISTED = {_plain(name): name for name in ZOO if not name.endswith(DOUBLE) or name == _PUBLISHED_DOUBLE}


def names() -> list[str]:
    """Canonical names of the zoo; ``NAME_double`` and ``timm/NAME`` are understood besides."""
    return list(_LISTED.values())


def double(name: str) -> str:
    """The network of the same family with twice the channels: "resnet8x4" -> "resnet8x4_double".

    Raises:
        ValueError: there is no such model, or none that is wider.
    """
    name = resolve(name)
    if name.startswith(_TIMM):
        raise ValueError(f"{name} has no twin of double width: timm's networks set their widths each in its own way")
    if name.endswith(DOUBLE):
        raise ValueError(f"{name} is a network of double width itself; the zoo has none that is wider still")
    return name + DOUBLE


def resolve(name: str) -> str:
    """Canonical name of a model, however it is written: "wrn-16-2", "resnet_8x4", "timm/ResNet18".

    Raises:
        ValueError: there is no such model; the sentence has the nearest names.
    """
    if name.lower().startswith(_TIMM):
        return _resolve_timm(name[len(_TIMM) :])
    if found := _BY_PLAIN.get(_longer(_plain(name))):
        return found
    near = [_LISTED[n] for n in difflib.get_close_matches(_longer(_plain(name)), _LISTED, n=3)]
    if timm.is_model(name.lower().split(".")[0]):
        near.insert(0, _TIMM + name.lower())
    nearest = f"the nearest are {', '.join(near)}"
    some = nearest if near else f"there are {', '.join(names())} and timm/NAME for timm's models"
    raise ValueError(f"no model {name!r}; {some}")


def _resolve_timm(name: str) -> str:
    arch = name.split(".")[0]
    for wanted in (name, name.lower()):
        plain = _plain(wanted).removeprefix("cifar")
        if wanted.startswith("cifar_") and plain in _BY_PLAIN:
            return _BY_PLAIN[plain]
        if timm.is_model(wanted.split(".")[0]):
            return _TIMM + wanted
    near = difflib.get_close_matches(arch.lower(), timm.list_models(), n=3)
    some = f"the nearest are {', '.join(near)}" if near else "timm.list_models() has them all"
    raise ValueError(f"timm has no model {name!r}; {some}")


def create(name: str, num_classes: int, *, image_size: int = 32, pretrained: bool = False) -> Tapped:
    """A freshly initialised model (default generator), ready to tap.

    Args:
        name: as ``resolve`` takes it.
        num_classes: K.
        image_size: side of the square images; zoo networks take any, timm's transformers must know.
        pretrained: timm models only: start from timm's weights for the name's tag.

    Raises:
        ValueError: there is no such model, it cannot be built for that size, it cannot be
            tapped, or its weights cannot be had.
    """
    name = resolve(name)
    if num_classes < 1:
        raise ValueError(f"{name} needs at least one class, not num_classes={num_classes}")
    if name.startswith(_TIMM):
        from kdbench.models import timm_taps

        return timm_taps.create(name, num_classes, image_size=image_size, pretrained=pretrained)
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights; train a teacher or import a checkpoint")
    return Tapped(timm.create_model(timm_name(name), num_classes=num_classes), name)
