"""Any timm model as a ``Tapped``: stem, stages and head found by looking once.

What timm gives is not one convention, so every model is tried on a small picture when it is
built, with its norms shaken, and refused in a sentence if its head, applied to its last map, is
not its own output, or if gradients do not pass.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.models.pretrained import start
from kdbench.models.shaken import shaken
from kdbench.models.tapped import Tapped, evaluating, picture

_STAGES = 4  # taps taken of a model whose blocks all have the same shape
_STEMS = ("stem", "patch_embed", "conv_stem", "patch_embeds.0")


#: Largest distance between a model's logits and those by way of its taps, as a share of the largest logit.
_CLOSE = 1e-4


class Capture:
    """A forward hook that keeps what its module gave, or what it was given, until asked."""

    def __init__(self, module: nn.Module, *, given: bool = False) -> None:
        self.shown: Any = None
        self.clone, self.given = False, given
        self.handle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], shown: Any) -> None:
        """What torch calls after the module's forward."""
        if self.given:
            shown = args[0] if args else None
        self.shown = shown.clone() if self.clone else shown

    def take(self) -> Any:
        """The last output; forgets it, so that no graph is kept alive."""
        shown, self.shown = self.shown, None
        return shown

    def remove(self) -> None:
        """Unhook it: what nobody takes would keep a graph alive."""
        self.handle.remove()
        self.shown = None


class TimmReader:
    """Taps of one timm model.

    feats: timm's own, where their first is an early one (five or more of falling size). Where
    timm gives only the stages (ConvNeXt, Swin), the output of the stem module goes in front. A
    model whose blocks all have one shape (ViT, mixers) shows its patch embedding and four
    evenly spaced blocks. If no stem can be found, the first stage stands for it too.

    last: as the head takes it, except that NHWC is shown as NCHW and tokens (B, N, C) as a map:
    (B, C, H, W) where they fill the grid, (B, C, N, 1) where there are others (a class token).

    preacts: None, timm has no such taps.

    tokens: of a model whose head takes tokens, those of every tap, with the class and distillation tokens where timm
    hands them out.

    A distilled head is two linear layers, each on a token of its own, whose logits are averaged: that is one linear
    layer on both vectors, and is shown so; ``heads`` are the logits of each.

    Args:
        net: the model; hooks are added to it where timm gives no tap.
        name: for errors.
        image_size: side of the images for the trial.

    Raises:
        ValueError: the model cannot be tapped, and why.

    >>> net = timm.create_model("resnet10t", num_classes=5).eval()
    >>> TimmReader(net, "timm/resnet10t", image_size=32).tap(picture((3, 32, 32)).float()).logits.shape
    torch.Size([1, 5])
    """

    def __init__(self, net: nn.Module, name: str, *, image_size: int) -> None:
        self.net: Any = net  # timm models share methods, but no base class
        self.indices: list[int] | None = None
        self.captures: list[Capture] = []
        self.stem: Capture | None = None
        self.stem_nhwc = False
        self.nhwc = getattr(net, "output_fmt", None) == "NHWC"
        self.tokens = self.fill_grid = self.prefixed = False
        self.given: list[Capture] = []  # the input of the last linear layers, where pre_logits is not that
        self.linears = _linears(net, name)
        image = picture((3, image_size, image_size)).to(self.linears[0].weight)
        with evaluating(net), shaken(net):
            try:
                logits = net(image)
            except Exception as error:  # whatever the model's own code raises
                raise ValueError(f"{name} cannot take {image_size}-px images: {_first_line(error)}") from error
            wanted = (1, len(self.linears[0].weight))
            if not isinstance(logits, Tensor) or logits.shape != wanted or not logits.isfinite().all():
                raise ValueError(f"{name} cannot be tapped: its output is not one finite number for each class")
            try:
                self._look(image)
                self._find_pooled(image, logits)
                self._pass_gradients(image)
            except Exception as error:
                raise ValueError(f"{name} cannot be tapped: {_first_line(error)}") from error

    def _look(self, image: Tensor) -> None:
        """Decide once, on a trial, how this model is tapped."""
        if not hasattr(self.net, "forward_intermediates"):
            self._hook_stages(image)
        last, maps, _ = self._stages(image)
        if not maps:
            raise ValueError("it shows no stages")
        if not isinstance(last, Tensor) or last.dim() not in (3, 4):
            raise ValueError("what its head pools is neither a map nor a row of tokens")
        self.tokens = last.dim() == 3
        if any(m.dim() != 4 for m in maps):
            raise ValueError("its stages are not maps (B, C, H, W)")
        c, h, w = maps[-1].shape[1:]
        self.fill_grid = self.tokens and last.shape[1:] == (h * w, c)
        count = len(maps)
        alike = count > 1 and len({m.shape for m in maps}) == 1
        if alike and self.indices is None and not self.captures:
            self.indices = sorted({round((i + 1) * count / _STAGES) - 1 for i in range(_STAGES)} - {-1})
        if alike or count <= _STAGES:
            self._find_stem(image)
        if self.tokens and not self.captures:
            asked = inspect.signature(self.net.forward_intermediates).parameters
            self.prefixed = "return_prefix_tokens" in asked
            *_, prefixes = self._stages(image)
            fits = (
                isinstance(p, Tensor) and p.dim() == 3 and p.shape[2] == m.shape[1]
                for p, m in zip(prefixes, maps, strict=False)
            )
            self.prefixed = bool(prefixes) and all(fits)

    def _find_stem(self, image: Tensor) -> None:
        """Hook the stem module, if it has a known name and gives a map."""
        modules = dict(self.net.named_modules())
        path = next((p for p in _STEMS if p in modules), None)
        if path is None:
            return
        self.stem = Capture(modules[path])
        _, maps, _ = self._stages(image)
        shown = self.stem.take()
        if isinstance(shown, Tensor) and shown.dim() == 4:
            # Most modules do not say; the trial's image is square, so its map is.
            said = getattr(modules[path], "output_fmt", None)
            self.stem_nhwc = said == "NHWC" or shown.shape[2] != shown.shape[3]
        if self._stem_map(shown, maps[0]) is None:
            self.stem.remove()
            self.stem = None

    def _find_pooled(self, image: Tensor, logits: Tensor) -> None:
        """What the last linear layer takes: timm's ``pre_logits``, or else what a hook on that layer sees."""
        try:
            fits = len(self.linears) == 1 and self._gives(image, logits)
        except Exception:  # a head without pre_logits, or whose pre_logits are no vector
            fits = False
        if not fits:
            self.given = [Capture(linear, given=True) for linear in self.linears]
            if not self._gives(image, logits):
                raise ValueError("its head on its last map is not one linear layer that gives its own logits")

    def _gives(self, image: Tensor, logits: Tensor) -> bool:
        """Whether taps and head give the model's own logits."""
        shown = self.tap(image)
        ways = (shown.logits, self.head(shown.last))
        near = _CLOSE * logits.abs().max()
        return all(way.shape == logits.shape and bool((way - logits).abs().max() <= near) for way in ways)

    def _pass_gradients(self, image: Tensor) -> None:
        """Every tap must have a gradient that nothing behind it has spoilt in place."""
        with torch.enable_grad():
            image = image.clone().requires_grad_()
            shown = self.tap(image)
            last = shown.last.detach().requires_grad_()
            seen = (*shown.feats, shown.last, shown.pooled, shown.logits, *(shown.tokens or ()), *(shown.heads or ()))
            torch.autograd.grad([tap.float().square().mean() for tap in seen], image)
            torch.autograd.grad(self.head(last).sum(), last)

    def _hook_stages(self, image: Tensor) -> None:
        """For models without ``forward_intermediates``: hooks where ``feature_info`` points."""
        modules = dict(self.net.named_modules())
        info = list(getattr(self.net, "feature_info", ()))
        paths = [entry.get("module", "") for entry in info]
        if not paths or any(not path or path not in modules for path in paths):
            raise ValueError("this timm has neither forward_intermediates nor named feature modules for it")
        self.captures = [Capture(modules[path]) for path in paths]
        self.net.forward_features(image)
        plain = [capture.take() for capture in self.captures]
        for capture in self.captures:
            capture.clone = True
        self.net.forward_features(image)
        # A ReLU in place right behind the tap would change it after the fact.
        for capture, before in zip(self.captures, plain, strict=True):
            capture.clone = not torch.equal(capture.take(), before)

    def _stages(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What the head takes, as timm has it, the stages' maps, and the tokens beside each where there are such."""
        if self.captures:
            last = self.net.forward_features(image)
            return last, [capture.take() for capture in self.captures], []
        if not self.prefixed:
            last, maps = self.net.forward_intermediates(image, indices=self.indices)
            return last, maps, []
        last, shown = self.net.forward_intermediates(image, indices=self.indices, return_prefix_tokens=True)
        if not all(isinstance(one, tuple) and len(one) == 2 for one in shown):  # there are none
            return last, shown, []
        return last, [one for one, _ in shown], [prefix for _, prefix in shown]

    def _stem_map(self, shown: Any, first: Tensor) -> Tensor | None:
        """The stem's output as a map; None if it is not one. ``first``: the first stage's map."""
        if not isinstance(shown, Tensor):
            return None
        if shown.dim() == 3 and shown.shape[1] == first.shape[2] * first.shape[3]:
            tokens: Tensor = shown.transpose(1, 2).unflatten(2, first.shape[2:])
            return tokens
        if shown.dim() == 4:
            return shown.permute(0, 3, 1, 2) if self.stem_nhwc else shown
        return None

    def tap(self, image: Tensor) -> Outputs:
        """(B, 3, H, W) -> all that a method may see."""
        raw, maps, prefixes = self._stages(image)
        feats = tuple(maps)
        if self.stem is not None:
            feats = (cast(Tensor, self._stem_map(self.stem.take(), feats[0])), *feats)
        elif self.indices is not None or len(feats) <= _STAGES:
            feats = (feats[0], *feats)
        if self.tokens:
            last = raw.transpose(1, 2).unflatten(2, maps[-1].shape[2:] if self.fill_grid else (-1, 1))
        else:
            last = raw.permute(0, 3, 1, 2) if self.nhwc else raw
        pooled = self._pool(raw)
        weight, bias = self._classifier()
        logits = F.linear(pooled, weight, bias)
        rows, heads = self._rows(feats, prefixes), self._heads(pooled)
        return Outputs(feats, last, pooled, logits, None, (weight, bias), rows, heads)

    def _rows(self, feats: tuple[Tensor, ...], prefixes: list[Tensor]) -> tuple[Tensor, ...] | None:
        """Tokens of every tap; a stem has none beside those of its map."""
        if not self.tokens:
            return None
        rows = [feat.flatten(2).transpose(1, 2) for feat in feats]
        for at, prefix in enumerate(prefixes, start=len(rows) - len(prefixes)):
            rows[at] = torch.cat((prefix, rows[at]), dim=1)
        return tuple(rows)

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W), or tokens (B, C, N, 1), -> (B, K) logits."""
        if self.tokens:
            last = last.flatten(2).transpose(1, 2)
        elif self.nhwc:
            last = last.permute(0, 2, 3, 1)
        return F.linear(self._pool(last), *self._classifier())

    def _pool(self, raw: Tensor) -> Tensor:
        if self.given:
            self.net.forward_head(raw)
            taken: list[Tensor] = [given.take().flatten(1) for given in self.given]
            return taken[0] if len(taken) == 1 else torch.cat(taken, dim=1)
        pooled: Tensor = self.net.forward_head(raw, pre_logits=True)
        return pooled.flatten(1)

    def _heads(self, pooled: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits of each of two heads, each of its part of the vectors; None where there is one."""
        if len(self.linears) != 2:
            return None
        parts = pooled.tensor_split([self.linears[0].weight.shape[1]], dim=1)
        first, second = (
            F.linear(part, linear.weight.flatten(1), linear.bias)
            for part, linear in zip(parts, self.linears, strict=True)
        )
        return first, second

    def _classifier(self) -> tuple[Tensor, Tensor | None]:
        if len(self.linears) == 1:
            (linear,) = self.linears
            return linear.weight.flatten(1), linear.bias  # a few are 1x1 convolutions
        biases = [linear.bias for linear in self.linears if linear.bias is not None]
        weight = torch.cat([linear.weight.flatten(1) for linear in self.linears], dim=1) / len(self.linears)
        return weight, torch.stack(biases).sum(dim=0) / len(self.linears) if biases else None


def create(
    name: str,
    num_classes: int,
    *,
    image_size: int,
    pretrained: bool,
    weights: str | Path | None = None,
    drop_path: float = 0.0,
) -> Tapped:
    """As ``zoo.create``, for a resolved name "timm/..."."""
    arch = name.removeprefix("timm/")
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        cfg = timm.get_pretrained_cfg(arch)
    except RuntimeError as error:  # an unknown tag
        raise ValueError(f"{name} cannot be built: {_first_line(error)}") from error
    if cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != image_size:
        options["img_size"] = image_size
    try:
        net = timm.create_model(arch, pretrained=False, num_classes=num_classes, **options)
    except Exception as error:  # timm's constructors raise all kinds
        raise ValueError(f"{name}: it cannot be built for {image_size}-px images: {_first_line(error)}") from error
    reader = TimmReader(net, name, image_size=image_size)
    tapped = Tapped(net, name, reader=reader)
    if pretrained or weights is not None:
        tapped.pretrained = start(net, name, num_classes, options, weights)
    return tapped


def _linears(net: nn.Module, name: str) -> tuple[nn.Linear | nn.Conv2d, ...]:
    """The one linear layer that a model's classifier is, or holds; of a distilled head both."""
    try:
        classifier = net.get_classifier()  # type: ignore[operator]
    except Exception:  # AttributeError, or whatever a model says that has no head
        classifier = None
    found = list[nn.Linear | nn.Conv2d]()
    for each in classifier if isinstance(classifier, tuple) else (classifier,):
        inside = each.modules() if isinstance(each, nn.Module) else ()
        linear = [module for module in inside if isinstance(module, nn.Linear | nn.Conv2d)]
        if len(linear) != 1:
            has = "has none" if each is None else f"is {type(each).__name__} with {len(linear)} of them"
            raise ValueError(f"{name} has no linear classifier: its head is to be one linear layer, it {has}")
        found += linear
    return tuple(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
