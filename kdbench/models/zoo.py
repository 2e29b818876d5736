"""Models by name: the 32-px zoo of the distillation literature, and all of timm."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import timm

from kdbench.models import extra as extra  # enters networks that timm does not have
from kdbench.models import own
from kdbench.models.checkpoints import match, read_checkpoint
from kdbench.models.nets import mobilenetv2, resnet, resnet_bottleneck, shufflenetv1, shufflenetv2, vgg, wrn
from kdbench.models.nets._net import DOUBLE, ZOO, timm_name
from kdbench.models.pretrained import tag, weights_identity
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
    """Canonical names of the zoo and of the user's own; ``NAME_double`` and ``timm/NAME`` are understood besides.

    >>> {"resnet8x4", "wrn_40_2", "MobileNetV2", "ShuffleV1"} <= set(names())
    True
    """
    return [*_LISTED.values(), *own.names()]


def double(name: str) -> str:
    """The network of the same family with twice the channels: "resnet8x4" -> "resnet8x4_double".

    Raises:
        ValueError: there is no such model, or none that is wider.

    >>> double("resnet8x4")
    'resnet8x4_double'
    """
    name = resolve(name)
    if name.startswith(_TIMM):
        raise ValueError(f"{name} has no twin of double width: timm's networks set their widths each in its own way")
    if own.find(name):
        raise ValueError(f"{name} is a network of yours, and its twin of double width is not known")
    if name.endswith(DOUBLE):
        raise ValueError(f"{name} is a network of double width itself; the zoo has none that is wider still")
    return name + DOUBLE


def resolve(name: str) -> str:
    """Canonical name of a model, however it is written: "wrn-16-2", "resnet_8x4", "timm/ResNet18".

    Raises:
        ValueError: there is no such model; the sentence has the nearest names.

    >>> resolve("wrn-16-2"), resolve("timm/ResNet18")
    ('wrn_16_2', 'timm/resnet18')
    >>> resolve("resnet7")
    Traceback (most recent call last):
    ValueError: no model 'resnet7'; the nearest are resnet8, resnet56, ResNet50
    """
    if own.find(name):
        return name
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
            return _TIMM + _with_tag(wanted)
    near = difflib.get_close_matches(arch.lower(), timm.list_models(), n=3)
    some = f"the nearest are {', '.join(near)}" if near else "timm.list_models() has them all"
    raise ValueError(f"timm has no model {name!r}; {some}")


def _with_tag(name: str) -> str:
    """The name with its tag in small letters.

    Raises:
        ValueError: timm knows no weights of that tag; the sentence has those that it knows.
    """
    arch, dot, wanted = name.partition(".")
    known = [known.partition(".")[2] for known in timm.models.get_arch_pretrained_cfgs(arch)]
    if dot and wanted.lower() not in known:
        raise ValueError(f"timm has no weights {wanted!r} for {arch}; {_tags(arch)}")
    return arch + dot + wanted.lower()


def _tags(arch: str) -> str:
    known = [name for name in timm.models.get_arch_pretrained_cfgs(arch) if "." in name]
    return f"there are {', '.join(_TIMM + name for name in known)}" if known else f"timm has none for {arch}"


def create(
    name: str,
    num_classes: int,
    *,
    image_size: int = 32,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    drop_path: float = 0.0,
) -> Tapped:
    """A model, ready to tap: fresh from the default generator, or started from weights.

    A name with a tag, "timm/resnet18.a1_in1k", promises weights, so they are loaded; a head of another
    number of classes is as fresh as that of the bare name. ``Tapped.pretrained`` says what was loaded.

    Args:
        name: as ``resolve`` takes it.
        num_classes: K.
        image_size: side of the square images; zoo networks take any, timm's transformers must know.
        pretrained: whether to load the weights that the name promises; None: if it promises any. False is
            for who loads others right after.
        drop_path: rate of stochastic depth of timm's networks, where they have it; 0: none.
        weights: file to start from in place of the tag's weights, safetensors or what torch saves.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: there is no such model, it cannot be built for that size, it cannot be
            tapped, or its weights cannot be had or do not fit.

    >>> import torch
    >>> create("resnet8", 10)(torch.zeros(2, 3, 32, 32)).logits.shape
    torch.Size([2, 10])
    >>> create("timm/resnet18", 10, image_size=64).name
    'timm/resnet18'
    """
    name = resolve(name)
    if num_classes < 1:
        raise ValueError(f"{name} needs at least one class, not num_classes={num_classes}")
    if pretrained and not tag(name) and weights is None:
        raise ValueError(
            f"{name} has no pretrained weights; train a teacher or import a checkpoint"
            if not name.startswith(_TIMM)
            else f"{name} does not say which of its pretrained weights: {_tags(name.removeprefix(_TIMM))}"
        )
    if name.startswith(_TIMM):
        from kdbench.models import timm_taps

        promised = bool(tag(name)) if pretrained is None else pretrained
        return timm_taps.create(
            name, num_classes, image_size=image_size, pretrained=promised, weights=weights, drop_path=drop_path
        )
    if own.find(name) and not drop_path:
        tapped = own.create(name, num_classes, image_size=image_size)
        if weights is not None:
            tapped.net.load_state_dict(match(read_checkpoint(Path(weights)), tapped))
            tapped.pretrained = weights_identity(name, weights)
        return tapped
    if drop_path:
        raise ValueError(f"{name} has no stochastic depth; drop_path={drop_path:g} is for timm's networks")
    tapped = Tapped(timm.create_model(timm_name(name), num_classes=num_classes), name)
    if weights is not None:
        tapped.net.load_state_dict(match(read_checkpoint(Path(weights)), tapped))
        tapped.pretrained = weights_identity(name, weights)
    return tapped
