"""Networks of the user's own: a function in a plug-in file that builds an ``nn.Module``, under ``@register_model``.

``stages`` names the submodules whose outputs are shown to methods, shallow to deep, and ``classifier`` the last linear
layer; a network that knows timm's face (``forward_features``, ``forward_head``, ``get_classifier``) needs neither, and
one that has ``tap`` and ``head`` itself (``kdbench.models.tapped.Reader``) is taken at its word.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.models.entered import ENTERED, Make, Own, find, names
from kdbench.models.nets._net import ZOO
from kdbench.models.tapped import Tapped, evaluating, picture
from kdbench.models.timm_taps import Capture, TimmReader

#: Largest distance between a network's logits and those of its head on its last map, as a share of the largest logit.
_CLOSE = 1e-4


@overload
def register_model(make: Make) -> Make: ...
@overload
def register_model(*, stages: Sequence[str] = (), classifier: str = "") -> Callable[[Make], Make]: ...
def register_model(make: Make | None = None, *, stages: Sequence[str] = (), classifier: str = "") -> Any:
    """Enter a function ``name(num_classes)`` that builds a network; pairs call it by the function's name.

    It may also take ``image_size``, the side of the square images in pixels.

    Raises:
        ValueError: the name is another network's.

    >>> @register_model(stages=["0", "1"], classifier="4")
    ... def doctest_net(num_classes):
    ...     convs = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    ...     return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))
    >>> create("doctest_net", 5, image_size=8).shapes((3, 8, 8)).feats
    ((4, 8, 8), (6, 4, 4))
    """

    def enter(made: Make) -> Make:
        name, own = getattr(made, "__name__", ""), Own.of(made, tuple(stages), classifier)
        known = find(name)
        other = known is not None and known.file != own.file and not (known.in_a_notebook and own.in_a_notebook)
        if not name.isidentifier() or other or _plain(name) in set(map(_plain, ZOO)):
            raise ValueError(f"the name {name!r} is another network's; give the function another one")
        ENTERED[name] = own
        made.__kdbench_model__ = True  # type: ignore[attr-defined]
        return made

    return enter if make is None else enter(make)


def create(name: str, num_classes: int, *, image_size: int) -> Tapped:
    """Build one.

    Raises:
        ValueError: it cannot be built or looked into; the sentence says what would do.

    >>> @register_model(stages=["0"], classifier="2")
    ... def doctest_flat(num_classes):
    ...     return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, num_classes))
    >>> create("doctest_flat", 5, image_size=8)
    Traceback (most recent call last):
    ValueError: the logits of doctest_flat are not its classifier on the mean of its last stage; name the submodule ...
    """
    own = ENTERED[name]
    words = {"image_size": image_size} if "image_size" in inspect.signature(own.make).parameters else {}
    try:
        net = own.make(num_classes, **words)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"{name} cannot be built for {num_classes} classes: {_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} gives a {type(net).__name__}; it is to give an nn.Module")
    if hasattr(net, "tap") and hasattr(net, "head"):
        reader: Any = net
    elif own.stages or own.classifier:
        reader = OwnReader(net, name, own.stages, own.classifier, image_size=image_size)
    elif hasattr(net, "get_classifier"):
        reader = TimmReader(net, name, image_size=image_size)
    else:
        raise ValueError(
            f"{name} does not say what methods may see of it; write @register_model(stages=[...], classifier=...) with"
            f" the names of submodules, such as {', '.join(list(dict(net.named_children()))[:4])}"
        )
    tapped = Tapped(net, name, reader=reader)
    _fit(net, name)
    tapped.pretrained = own.sha256
    tapped.folds = False  # what is folded away cannot be tapped
    return tapped


class OwnReader:
    """Taps of a network by hooks on named submodules. The head is the mean over the last map, then the classifier.

    >>> convs = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    >>> reader = OwnReader(nn.Sequential(*convs, nn.Linear(4, 5)), "small", ["1"], "4", image_size=8)
    >>> reader.tap(picture((3, 8, 8)).float()).shapes()
    Shapes(feats=((4, 8, 8),), last=(4, 8, 8), pooled=4, tokens=None)

    Raises:
        ValueError: no such submodule, an output that is no map, or a head that is not this one.
    """

    def __init__(self, net: nn.Module, name: str, stages: Sequence[str], classifier: str, *, image_size: int) -> None:
        modules = dict(net.named_modules())
        if missing := [one for one in (*stages, classifier) if one not in modules or not one]:
            has = ", ".join(list(dict(net.named_children()))[:8])
            raise ValueError(f"{name} has no submodule {missing[0]!r} to tap; it has {has}")
        if not stages:
            raise ValueError(f"{name} names no stages; methods are shown the outputs of one at least")
        linear = modules[classifier]
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"the classifier {classifier} of {name} is {type(linear).__name__}, not nn.Linear")
        self.net, self.linear = net, linear
        self.stages = [Capture(modules[one]) for one in stages]
        self.given = Capture(linear, given=True)
        for capture in self.stages:
            capture.clone = True  # a ReLU in place behind it would change it after the fact
        image = picture((3, image_size, image_size)).to(linear.weight)
        with evaluating(net):
            try:
                logits, seen = net(shown := image.clone()), self.tap(image.clone())
            except Exception as error:
                raise ValueError(f"{name} cannot be tapped with {image_size}-px images: {_line(error)}") from error
            if not torch.equal(shown, image):
                raise ValueError(f"{name} writes into its images, which others see, too; clone them first")
            if not isinstance(logits, Tensor):
                raise ValueError(
                    f"{name} gives a {type(logits).__name__}; it is to give logits, (B, {linear.out_features})"
                )
            if any(not isinstance(one, Tensor) or one.ndim != 4 for one in seen.feats):
                raise ValueError(f"the stages of {name} are to be maps (B, C, H, W); one of them is none")
            near = _CLOSE * logits.abs().max()
            if seen.last.shape[1] != linear.in_features or bool((self.head(seen.last) - logits).abs().max() > near):
                raise ValueError(
                    f"the logits of {name} are not its classifier on the mean of its last stage; name the submodule"
                    " whose output is pooled as the last stage, or give the network tap and head of its own"
                )

    def tap(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""
        logits = self.net(image)
        feats = tuple(cast(Tensor, capture.take()) for capture in self.stages)
        pooled = cast(Tensor, self.given.take()).flatten(1)
        return Outputs(feats, feats[-1], pooled, logits, None, (self.linear.weight, self.linear.bias))

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""
        return F.linear(last.mean(dim=(2, 3)), self.linear.weight, self.linear.bias)


def _fit(net: nn.Module, name: str) -> None:
    """Raises: ValueError: it cannot be copied, kept or trained as runs do it."""
    try:
        copy.deepcopy(net)
    except Exception as error:
        raise ValueError(f"{name} cannot be copied, as runs do to evaluate it: {_line(error)}") from error
    if odd := [key for key, value in net.state_dict().items() if not isinstance(value, Tensor)]:
        raise ValueError(f"the state_dict of {name} has {odd[0]!r}, which is no tensor; kept weights are tensors alone")
    if odd := [key for key, value in net.named_parameters() if value.dtype is not torch.float32]:
        kind = str(dict(net.named_parameters())[odd[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{odd[0]} of {name} is {kind}; runs train float32 weights, and --precision says what they use"
        )


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


__all__ = ["Own", "OwnReader", "create", "find", "names", "register_model"]
