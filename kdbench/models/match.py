"""A state dict from elsewhere, laid under the keys of a network and checked tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from kdbench.models.tapped import Tapped

#: Other repositories' names of the classifier, theirs and RepDistiller's.
_RENAMES = (("classifier.", "classifier.0."), ("fc.", "linear."))
_COUNTER = "num_batches_tracked"  # of batches; old versions of torch did not write it
_SHOWN = 3
_LONGEST = 80  # letters of a key that are shown
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def match(
    state: Mapping[str, Tensor], net: Tapped | nn.Module, *, note: Callable[[str], None] | None = None
) -> dict[str, Tensor]:
    """``state`` under the keys, in the dtypes and dense as ``net`` has them, ready for its ``load_state_dict``.

    Takes off the prefix under which the network lies among others (a LightningModule's ``model.``,
    a kept student's ``net.``), renames the classifier where the repositories differ, and fills in
    batch norms' counters. Half and double precision are converted.

    Args:
        state: as ``read_checkpoint`` gives it.
        net: the network that it is for.
        note: told in a sentence what was left out.

    Raises:
        ValueError: keys are missing, unexpected, of another shape or kind, how many and which; two
            networks in ``state`` fit; or a value is not finite.

    >>> from kdbench.models import create
    >>> net = create("resnet8", 10)
    >>> lightning = {f"model.{key}": value for key, value in net.net.state_dict().items()}
    >>> net.net.load_state_dict(match(lightning, net))
    <All keys matched successfully>
    """
    inner = net.net if isinstance(net, Tapped) else net
    name = net.name if isinstance(net, Tapped) else type(net).__name__
    own = inner.state_dict()
    state = _part_for(state, own, name, note)
    renamed = {_rename(key, own): value for key, value in state.items()}
    for key, value in own.items():
        if key.endswith(_COUNTER):
            renamed.setdefault(key, torch.zeros_like(value))
    both = [(key, renamed[key], value) for key, value in own.items() if key in renamed]
    complaints = [
        _complaint("missing", [key for key in own if key not in renamed]),
        _complaint("unexpected", [key for key in renamed if key not in own]),
        _complaint(
            "of another shape",
            [f"{k} {tuple(t.shape)} instead of {tuple(o.shape)}" for k, t, o in both if t.shape != o.shape],
        ),
        _complaint(
            "of another kind", [f"{k} {kind} instead of {_word(o)}" for k, t, o in both if (kind := _odd(t, o))]
        ),
    ]
    if wrong := [complaint for complaint in complaints if complaint]:
        raise ValueError(f"these weights are not for {name}: {'; '.join(wrong)}")
    matched = {key: theirs.detach().to(ours.dtype) for key, theirs, ours in both}
    if bad := [key for key, value in matched.items() if not value.isfinite().all()]:
        raise ValueError(f"these weights are not for use: {_complaint('not finite', bad)}")
    return matched


def _part_for(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, note: Callable[[str], None] | None
) -> Mapping[str, Tensor]:
    """The part of ``state`` under the prefix that the network lies under; all of it when that is none."""
    if not own:
        return state
    anchor = next(iter(own))
    prefixes = [key.removesuffix(anchor) for key in state if key == anchor or key.endswith(f".{anchor}")]
    parts = {
        prefix: {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in prefixes
    }
    lacks = {prefix: _lacks(part, own) for prefix, part in parts.items()}
    fitting = [prefix for prefix, missing in lacks.items() if not missing]
    if len(fitting) > 1:
        where = ", ".join(legible(prefix) or "no prefix" for prefix in fitting)
        raise ValueError(f"{len(fitting)} networks in these weights fit {name}, under {where}; --prefix says which")
    best = min(lacks, key=lambda prefix: lacks[prefix], default="")
    if not best:
        return state
    others = sorted({key.split(".")[0] for key in state if not key.startswith(best)})
    if others and note is not None and best in fitting:
        note(f"{name} was read from {legible(best)}*; what lies under {_some(others)} was left out")
    return parts[best]


def _lacks(part: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    """How many of the network's tensors are not in the part, counters not counted."""
    renamed = {_rename(key, own) for key in part}
    return sum(key not in renamed for key in own if not key.endswith(_COUNTER))


def _rename(key: str, own: Mapping[str, Tensor]) -> str:
    for theirs, ours in _RENAMES:
        other = ours + key.removeprefix(theirs)
        if key not in own and key.startswith(theirs) and other in own:
            return other
    return key


def _odd(theirs: Tensor, ours: Tensor) -> str:
    """What hinders ``theirs`` from standing in the place of ``ours``, in a word; "" when nothing does."""
    if theirs.is_meta:
        return "without values"
    if theirs.is_nested or theirs.layout != torch.strided:
        return "nested" if theirs.is_nested else "sparse"
    if theirs.is_quantized:
        return "quantised"
    if ours.dtype in _FLOATS:
        return "" if theirs.dtype in _FLOATS else _word(theirs)
    # Counters that were averaged are whole numbers in a float.
    real = not theirs.is_complex() and theirs.dtype != torch.bool
    return "" if theirs.dtype == ours.dtype or (real and ours.dtype != torch.bool) else _word(theirs)


def _word(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _complaint(what: str, found: Iterable[str]) -> str:
    found = list(found)
    return f"{len(found)} {what} ({_some(found)})" if found else ""


def _some(found: list[str]) -> str:
    more = ", ..." if len(found) > _SHOWN else ""
    return ", ".join(map(legible, found[:_SHOWN])) + more


def legible(text: str) -> str:
    """A key, or a word about one, from a stranger's file: on one line, not too long, without control characters."""
    return re.sub(r"[^\w .,()/*-]", "?", text)[:_LONGEST]
