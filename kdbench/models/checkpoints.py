"""Checkpoints of other distillation repositories, read without running code.

Understood containers: RepDistiller, multi-granularity and mdistiller's teachers (``model``), SSKD
(``state_dict``), mdistiller's ``latest``, ``best`` and ``epoch_*`` (a whole distiller: its keys
start with ``module.student.`` and ``module.teacher.``), plain state dicts, and safetensors.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.models.tapped import Tapped

_CONTAINERS = ("model", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
#: Other repositories' names of the classifier, theirs and RepDistiller's.
_RENAMES = (("classifier.", "classifier.0."), ("fc.", "linear."))
_SHOWN = 3


def read_checkpoint(file: Path, *, part: Literal["auto", "student", "teacher"] | str = "auto") -> dict[str, Tensor]:
    """State dict of the network in ``file``, on the CPU, wrappers' prefixes taken off.

    Args:
        file: .safetensors, or anything that ``torch.save`` wrote.
        part: which network of a distiller's checkpoint; "auto" takes the only one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, reading it would run code, it holds no state dict, or
            ``part`` does not say which network is meant.
    """
    if part not in ("auto", "student", "teacher"):
        raise ValueError(f"part={part!r}: it is auto, student or teacher")
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint {file}")
    content = _open(file)
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{file} holds no state dict, neither at its top nor under {' or '.join(_CONTAINERS)}")
    return _pick(file, _unwrap(content), part)


def match(state: Mapping[str, Tensor], net: Tapped | nn.Module) -> dict[str, Tensor]:
    """``state`` under the keys of ``net``, ready for its ``load_state_dict``.

    Renames the classifier where the repositories differ, and fills in batch norms' counters,
    which old versions of torch did not write.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; how many and which.
    """
    inner = net.net if isinstance(net, Tapped) else net
    name = net.name if isinstance(net, Tapped) else type(net).__name__
    own = inner.state_dict()
    renamed = {_rename(key, own): value for key, value in state.items()}
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            renamed.setdefault(key, torch.zeros_like(value))
    complaints = [
        _complaint("missing", [key for key in own if key not in renamed]),
        _complaint("unexpected", [key for key in renamed if key not in own]),
        _complaint(
            "of another shape",
            [
                f"{key} {tuple(renamed[key].shape)} instead of {tuple(value.shape)}"
                for key, value in own.items()
                if key in renamed and value.shape != renamed[key].shape
            ],
        ),
    ]
    if wrong := [complaint for complaint in complaints if complaint]:
        raise ValueError(f"these weights are not for {name}: {'; '.join(wrong)}")
    return {key: renamed[key] for key in own}


def _open(file: Path) -> Any:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from error
    try:
        # RepDistiller's *_last.pth keep their command line. Torch warns of unusual pickles and then refuses them.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises whatever the parser meets
        asked = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise ValueError(
                f"{file} is refused, because reading it might run code ({asked[1]});"
                " save its state dict alone and import that"
            ) from error
        raise ValueError(f"{file} is not a checkpoint that torch can read without running code") from error


def _unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all keys share because the model was wrapped."""
    plain = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in plain)), None):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _pick(file: Path, state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """One network of a distiller's checkpoint."""
    there = [side for side in ("student", "teacher") if any(key.startswith(f"{side}.") for key in state)]
    if not there:
        if part != "auto":
            raise ValueError(f"{file} holds one network, not a student and a teacher; leave out part={part}")
        return state
    if part == "auto" and len(there) > 1:
        raise ValueError(f"{file} holds a student and a teacher; say which with part=student or part=teacher")
    side = there[0] if part == "auto" else part
    if side not in there:
        raise ValueError(f"{file} holds a {there[0]}, no {side}")
    prefix = f"{side}."
    return _unwrap({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def _rename(key: str, own: Mapping[str, Tensor]) -> str:
    for theirs, ours in _RENAMES:
        other = ours + key.removeprefix(theirs)
        if key not in own and key.startswith(theirs) and other in own:
            return other
    return key


def _complaint(what: str, found: Iterable[str]) -> str:
    found = list(found)
    if not found:
        return ""
    more = ", ..." if len(found) > _SHOWN else ""
    return f"{len(found)} {what} ({', '.join(found[:_SHOWN])}{more})"
