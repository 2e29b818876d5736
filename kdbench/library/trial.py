"""One look at how a network of any make computes its logits: which modules were called, in which order, with what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.engine.torch_private import versions

#: What makes a stage of the maps of one size.
_LEARNS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
#: Largest distance between two ways to the same numbers, as a share of the largest of them.
CLOSE = 1e-4

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Call(NamedTuple):
    """One module's forward pass, in the order in which they end."""

    path: str
    module: nn.Module
    given: Tensor | None  # its first input
    shown: Tensor  # its output, the first tensor of it
    version: int  # of ``shown`` when it was given out; another one later: something behind it wrote into it
    nhwc: bool  # a map whose channels come last
    is_map: bool  # of a square image a square one: windows of tokens have four dimensions, too

    @property
    def map(self) -> Tensor:
        """(B, C, H, W), whatever order the network keeps its maps in."""
        return self.shown.permute(0, 3, 1, 2) if self.nhwc else self.shown

    @property
    def pixels(self) -> int:
        """H * W of the map."""
        return self.map.shape[2:].numel()

    @property
    def overwritten(self) -> bool:
        """Whether what came after has changed the output."""
        return versions([self.shown]) != [self.version]


def first_tensor(shown: Any) -> Tensor | None:
    """The tensor that a module's output is, or the first in it."""
    if isinstance(shown, Tensor):
        return shown
    inside = shown.values() if isinstance(shown, Mapping) else shown if isinstance(shown, list | tuple) else ()
    return next((one for one in inside if isinstance(one, Tensor)), None)


def logits_of(shown: Any, name: str) -> Tensor:
    """(B, K) logits in what a network returns: the tensor, its ``logits``, or the first tensor of several.

    Where several are rows, they must be of one width, or features could stand for logits. Of several under names it is
    ``logits``, else ``out``, else the only one of two dimensions.

    Raises:
        ValueError: there are none, or several could be.

    >>> logits_of((torch.zeros(2, 5), None), "net").shape
    torch.Size([2, 5])
    """
    found = getattr(shown, "logits", None)
    if isinstance(shown, Mapping):
        found = _named(shown, name)
    elif isinstance(shown, list | tuple) and not isinstance(found, Tensor):
        rows = [one for one in shown if isinstance(one, Tensor) and one.dim() == 2]
        if len({one.shape[1] for one in rows}) > 1:
            widths = " and ".join(str(one.shape[1]) for one in rows)
            raise ValueError(
                f"{name} returns rows of {widths} numbers, and which are the logits is not told; return them alone, or"
                " in a dict, called logits"
            )
    found = found if isinstance(found, Tensor) else first_tensor(shown)
    if found is None or found.dim() != 2:
        what = type(shown).__name__ if found is None else f"a tensor of shape {tuple(found.shape)}"
        raise ValueError(f"{name} returns {what}, and not one row of logits for each image")
    return found


def _named(shown: Mapping[Any, Any], name: str) -> Tensor | None:
    """Raises: ValueError: several of what is returned could be the logits."""
    for key in ("logits", "out"):
        if isinstance(shown.get(key), Tensor):
            found: Tensor = shown[key]
            return found
    rows = {key: one for key, one in shown.items() if isinstance(one, Tensor) and one.dim() == 2}
    if len(rows) > 1:
        raise ValueError(f"{name} returns {', '.join(map(str, rows))}, and none of them is called logits; name it so")
    return next(iter(rows.values()), None)


def watch(net: nn.Module, image: Tensor, name: str) -> tuple[list[Call], Tensor]:
    """Every call that was made once, in order, and the logits (1, K); leaves no hook behind.

    Modules that are called several times in one pass are left out: none of their outputs is *the* output.

    Raises:
        ValueError: the network cannot take the image, or returns no logits.
    """
    square = image.shape[2] == image.shape[3]
    calls: list[Call] = []
    counts: Counter[str] = Counter()

    def saw(path: str, module: nn.Module, args: tuple[Any, ...], shown: Any) -> None:
        counts[path] += 1
        if (tensor := first_tensor(shown)) is not None:
            _, *sides = tensor.shape if tensor.dim() == 4 else (0, 0, 1, 2)
            last = square and sides[0] == sides[1] != sides[2]
            is_map = tensor.dim() == 4 and (not square or last or sides[1] == sides[2])
            calls.append(Call(path, module, first_tensor(args), tensor, versions([tensor])[0], last, is_map))

    handles = [module.register_forward_hook(partial(saw, path)) for path, module in net.named_modules() if path]
    try:
        returned = net(image)
    except Exception as error:  # whatever the network's own code raises
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot take images of shape {tuple(image.shape[1:])}: {said}") from error
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in calls if counts[call.path] == 1], logits_of(returned, name)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors have the same shape and, up to rounding, the same numbers."""
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= CLOSE * wanted.abs().max())


def classifier(calls: Sequence[Call], logits: Tensor) -> Call | None:
    """The linear layer, a 1x1 convolution included, whose output the logits are; None: there is none."""
    for call in reversed(calls):
        if not isinstance(call.module, nn.Linear | nn.Conv2d) or call.given is None:
            continue
        weight = call.module.weight
        plain = call.given.flatten(1).shape == (len(logits), weight[0].numel())
        if plain and near(call.shown.flatten(1), logits):
            return call
    return None


def stages(calls: Sequence[Call]) -> list[Call]:
    """The last map of each resolution on the way to the logits, and the stem before them; [] where there is none.

    Of the maps of one size counts the one whose module is nested least, for the others are inside of stages. A size
    whose map comes before that of a larger one is a side branch, squeeze-and-excitation say, and one in which nothing
    is convolved is a pooling.
    """
    maps = [at for at, call in enumerate(calls) if call.is_map]
    learns = [at for at in maps if isinstance(calls[at].module, _LEARNS)]
    found: list[int] = []
    for size in sorted({calls[at].pixels for at in maps}, reverse=True):
        before = found[-1] if found else -1
        end = _outermost(calls, [at for at in maps if calls[at].pixels == size])
        if end > before and any(before < at <= end and calls[at].pixels == size for at in learns):
            found.append(end)
    if found and sum(at <= found[0] for at in learns) > 1:  # the first resolution is a stage with the stem in it
        found.insert(0, _outermost(calls, [at for at in maps if at < learns[1]]))
    return [calls[at] for at in dict.fromkeys(found)]


def _outermost(calls: Sequence[Call], among: Sequence[int]) -> int:
    """The least nested of some calls; of equals the last."""
    return min(among, key=lambda at: (calls[at].path.count("."), -at))


def blocks(calls: Sequence[Call], most: int = 4) -> list[Call]:
    """Of the blocks of one kind that a transformer repeats, as many, evenly spaced; [] where there are none."""
    kinds: dict[tuple[type, torch.Size], list[Call]] = {}
    for call in calls:
        if call.shown.dim() == 3 and any(True for _ in call.module.children()):
            kinds.setdefault((type(call.module), call.shown.shape), []).append(call)
    # A block has its parts inside it: of equally many kinds the one that ends last.
    longest = max(kinds.values(), key=lambda of: (len(of), calls.index(of[-1])), default=[])
    if len(longest) < 2:
        return []
    return [longest[at] for at in sorted({round((i + 1) * len(longest) / most) - 1 for i in range(most)} - {-1})]


def drops_in_place(net: nn.Module) -> bool:
    """Whether something in it writes into its input in training alone."""
    return any(isinstance(module, _DROPOUTS) and module.inplace for module in net.modules())
