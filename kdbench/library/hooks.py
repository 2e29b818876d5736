"""Any network as a ``Tapped``: ordinary forward hooks on modules that are named, or found by looking once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.distiller import Outputs
from kdbench.engine.torch_private import forward_hooks
from kdbench.library import trial
from kdbench.library.trial import Call
from kdbench.models.shaken import shaken
from kdbench.models.tapped import evaluating, picture
from kdbench.utils.wording import printable


class Hook:
    """Keeps what a module gives, or is given, while its reader looks; nothing at any other time."""

    def __init__(
        self, path: str, module: nn.Module, *, given: bool = False, clone: bool = False, nhwc: bool = False
    ) -> None:
        self.path, self.given, self.clone, self.nhwc = path, given, clone, nhwc
        #: By thread that looks: what was shown since, once for each call.
        self.shown: dict[int, list[Tensor | None]] = {}
        self.handle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], shown: Any) -> None:
        """What torch calls after the module's forward."""
        shown_here = self.shown.get(get_ident())
        if shown_here is not None:
            tensor = trial.first_tensor(args if self.given else shown)
            shown_here.append(tensor.clone() if self.clone and tensor is not None else tensor)

    def look(self) -> None:
        """Keep what is shown to this thread from here on."""
        self.shown[get_ident()] = []

    def forget(self) -> list[Tensor | None]:
        """What was shown since; nothing of it is kept, so that no graph stays alive."""
        return self.shown.pop(get_ident(), [])

    def take(self) -> Tensor:
        """What the last pass showed; forgets it."""
        shown = self.forget()
        if len(shown) > 1:
            raise ValueError(
                f"the tap {self.path} was called {len(shown)} times in this forward pass, so none of its outputs is"
                " the output; name others in taps"
            )
        if not shown or shown[0] is None:
            raise ValueError(
                f"the tap {self.path} was not reached in this forward pass; name others in taps, or attach again if it"
                " was replaced"
            )
        return shown[0]


class HookReader:
    """Taps of a network of any make.

    feats: the modules of ``taps``, or else the last map of each resolution with the stem before them; of a
    transformer its patch embedding and four evenly spaced blocks, as maps where their tokens fill the grid.

    last: the map whose mean is the input of the classifier; where no module's output is such a map, that input
    itself, as a map (B, D, 1, 1).

    A network without maps, a perceptron say, shows ``last`` in the place of both its taps, and ``feats`` is empty.

    pooled and classifier: input and weights of the linear layer that gives the logits. Where there is none,
    ``linear`` is None, and the logits stand for both.

    Args:
        net: called as ``net(images)``; what it returns are logits, or holds them.
        name: for errors.
        image_shape: (C, H, W) of the trial.
        taps: paths of modules, the stem first, shallow to deep; None: they are found.

    Raises:
        ValueError: it cannot be tapped, and why.
    """

    def __init__(
        self, net: nn.Module, name: str, *, image_shape: tuple[int, int, int], taps: Sequence[str] | None = None
    ) -> None:
        self.net, self.name = net, name
        self.linear: nn.Linear | nn.Conv2d | None = None
        self.given: Hook | None = None
        self.last: Hook | None = None
        self.relu = False  # between the last map and its mean
        self.grid: list[int] = []  # H, W of the first map
        like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
        image = picture(image_shape).to(like)
        with evaluating(net), shaken(net):
            calls, logits = trial.watch(net, image, name)
            self._find_head(calls, logits)
            self.feats = [self._hook(call) for call in self._stages(calls, taps)]
        try:
            self._try(image)
        except ValueError:
            self.remove()
            raise

    def _hook(self, call: Call, *, given: bool = False) -> Hook:
        clone = call.overwritten or trial.drops_in_place(self.net)
        return Hook(call.path, call.module, given=given, clone=clone and not given, nhwc=call.nhwc)

    def _find_head(self, calls: Sequence[Call], logits: Tensor) -> None:
        call = trial.classifier(calls, logits)
        if call is None:
            return
        assert isinstance(call.module, nn.Linear | nn.Conv2d)
        assert call.given is not None
        self.linear, self.given = call.module, self._hook(call, given=True)
        pooled = call.given.flatten(1)
        for one in reversed(calls):
            if not one.is_map or one.nhwc:
                continue
            for relu in (False, True)[one.overwritten :]:  # what overwrites a map in place is a ReLU, or no mean fits
                if trial.near(_mean(one.shown, relu), pooled) and one.shown.shape[2:].numel() > 1:
                    self.last, self.relu = self._hook(one), relu
                    return

    def _stages(self, calls: Sequence[Call], taps: Sequence[str] | None) -> list[Call]:
        found = trial.stages(calls)
        if found:
            _, _, *self.grid = found[0].map.shape
        if taps is not None:
            return self._named(calls, taps)
        if len(found) < 3 and (tokens := trial.blocks(calls)):
            found = [*found[:1], *tokens] if found else [tokens[0], *tokens]
        return [*found, *found] if len(found) == 1 else found

    def _named(self, calls: Sequence[Call], taps: Sequence[str]) -> list[Call]:
        listed = isinstance(taps, list | tuple)
        if not listed or len(taps) < 2 or not all(isinstance(path, str) for path in taps):
            given = printable(repr(taps), 60)
            raise ValueError(f"taps of {self.name} are two paths of modules at least, the stem first, not {given}")
        by_path = {call.path: call for call in calls}
        known = dict(self.net.named_modules())
        for path in taps:
            if path not in known:
                near = get_close_matches(path, known, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else "named_modules() has them all"
                raise ValueError(f"{self.name} has no module {path!r}; {hint}")
            if path not in by_path:
                raise ValueError(f"{self.name} does not call {path!r} once in a forward pass, so it is no tap")
            if (shape := by_path[path].shown.shape)[2:] == () or len(shape) > 4:
                raise ValueError(f"{path!r} of {self.name} gives a tensor of shape {tuple(shape)}, which is no map")
        found = [by_path[path] for path in taps]
        ends = {call.path: at for at, call in enumerate(calls)}
        order = [ends[path] for path in taps]
        if order != sorted(order):
            first = next(at for at in range(1, len(order)) if order[at] < order[at - 1])
            raise ValueError(
                f"taps of {self.name} go from shallow to deep, and {taps[first - 1]!r} is deeper than {taps[first]!r}"
            )
        return found

    def _try(self, image: Tensor) -> None:
        """Taps are maps, their gradients are not spoilt by what comes after, and the head gives the logits."""
        with evaluating(self.net), torch.enable_grad():
            image = image.clone().requires_grad_()
            shown = self.tap(image * 1)  # no leaf: a network may write into its images
            taps = [tap for tap in (*shown.feats, shown.last, shown.pooled, shown.logits) if tap.requires_grad]
            try:
                torch.autograd.grad([tap.float().square().mean() for tap in taps], image, allow_unused=True)
            except RuntimeError as error:
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(f"gradients do not pass the taps of {self.name}: {said}") from error
            with torch.no_grad():
                if not trial.near(self.head(shown.last), shown.logits):
                    raise ValueError(f"the head of {self.name} on its last map does not give its logits")

    def tap(self, image: Tensor) -> Outputs:
        """(B, C, H, W) -> all that a method may see."""
        hooks = [hook for hook in (*self.feats, self.last, self.given) if hook is not None]
        for hook in hooks:
            hook.look()
        try:
            logits = trial.logits_of(self.net(image), self.name)
            seen = {id(hook): hook.take() for hook in hooks}
        finally:
            for hook in hooks:
                hook.forget()
        pooled = logits if self.given is None else seen[id(self.given)].flatten(1)
        last = pooled[..., None, None]
        if self.last is not None:
            last = seen[id(self.last)]
            last = F.relu(last) if self.relu else last
        feats = tuple(self._as_map(hook, seen[id(hook)]) for hook in self.feats) or (last, last)
        return Outputs(feats, last, pooled, logits, None, self._classifier(), self._rows(feats, seen))

    def _rows(self, feats: tuple[Tensor, ...], seen: Mapping[int, Tensor]) -> tuple[Tensor, ...] | None:
        """The tokens of every tap where all stages behind the stem give such."""
        shown = [seen[id(hook)] for hook in self.feats]
        if not shown or any(one.dim() != 3 for one in shown[1:]):
            return None
        return tuple(
            one if one.dim() == 3 else feat.flatten(2).transpose(1, 2) for one, feat in zip(shown, feats, strict=True)
        )

    def head(self, last: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""
        classifier, pooled = self._classifier(), _mean(last)
        return pooled if classifier is None else F.linear(pooled, *classifier)

    def remove(self) -> None:
        """Take the hooks off again."""
        for hook in (*getattr(self, "feats", ()), self.last, self.given):
            if hook is not None:
                hook.handle.remove()

    def _classifier(self) -> tuple[Tensor, Tensor | None] | None:
        return None if self.linear is None else (self.linear.weight.flatten(1), self.linear.bias)

    def _as_map(self, hook: Hook, shown: Tensor) -> Tensor:
        """Maps as (B, C, H, W); tokens (B, N, C) as a map of the patches, without what stands before them."""
        if shown.dim() == 4:
            return shown.permute(0, 3, 1, 2) if hook.nhwc else shown
        b, n, c = shown.shape
        if self.grid and 0 <= (extra := n - self.grid[0] * self.grid[1]) <= 8:
            return shown[:, extra:].transpose(1, 2).reshape(b, c, *self.grid)
        return shown.transpose(1, 2)[..., None]


def _mean(last: Tensor, relu: bool = False) -> Tensor:
    return (F.relu(last) if relu else last).mean(dim=(2, 3))


def unhook(net: nn.Module, keys: set[int]) -> None:
    """Remove the forward hooks of these keys (see ``hooks_of``)."""
    for module in net.modules():
        hooks = forward_hooks(module)
        for key in keys & hooks.keys():
            del hooks[key]


def hooks_of(net: nn.Module) -> set[int]:
    """Keys of all forward hooks."""
    return {key for module in net.modules() for key in forward_hooks(module)}
