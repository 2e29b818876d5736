"""Checkpoints of other repositories: which of their tensors are the network.

Understood: plain state dicts and safetensors; the usual containers (``model``, ``state_dict``, ``net``, ...), with
or without averaged weights beside (``state_dict_ema``, ``ema``, ...); the prefixes of wrappers (DataParallel,
torch.compile, SWA with its ``n_averaged``); mdistiller's ``latest``, ``best`` and ``epoch_*`` and kdbench's own kept
students, whose keys start with ``student.`` and ``teacher.``. Any other prefix, such as a LightningModule's
``model.``, is found by ``match``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kdbench.models.match import legible, match
from kdbench.models.safe_load import open_safely

__all__ = ["match", "read_checkpoint"]

_PLAIN = (
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "model_state",
    "net_state_dict",
    "weights",
    "module",
)
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema_net")
#: An average that lies in the same state dict as the plain weights.
_AVERAGED_KEY = re.compile(r"(?:\w*_)?ema(?:_\w*)?\.")
_WRAPPERS = ("module.",)  # of DataParallel and of averaged models, in front of all
_INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # may stand anywhere
_DEEP = 4  # containers in containers
_SHOWN = 6


def read_checkpoint(
    file: Path,
    *,
    part: Literal["auto", "student", "teacher"] | str = "auto",
    ema: bool = False,
    prefix: str | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """State dict of the network in ``file``, on the CPU, wrappers' prefixes taken off.

    Args:
        file: .safetensors, or anything that ``torch.save`` wrote.
        part: which network of a distiller's checkpoint; "auto" takes the only one.
        ema: the averaged weights, where there are averaged and plain ones.
        prefix: the network's keys start with it; it is taken off, and other keys are left out.
        note: told in a sentence where one of several was chosen.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, reading it would run code, it holds no state dict, no averaged
            weights or nothing under ``prefix``, or ``part`` does not say which network is meant.

    >>> import torch
    >>> torch.save({"epoch": 3, "state_dict": {"module.fc.bias": torch.zeros(10)}}, "net.pth")
    >>> list(read_checkpoint(Path("net.pth")))
    ['fc.bias']
    """
    if part not in ("auto", "student", "teacher"):
        raise ValueError(f"part={part!r}: it is auto, student or teacher")
    file = Path(file)
    say = note or (lambda sentence: None)
    content, averaged = _container(file, open_safely(file), ema, say)
    found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not found:
        raise ValueError(
            f"{file} holds no state dict, neither at its top nor under {', '.join(_PLAIN[:-1])}{_has(content)}"
        )
    state = _unwrap(found)
    if not averaged:
        state = _average(file, state, ema, say)
    return _pick(file, state, part) if prefix is None else _under(file, state, prefix)


def _container(file: Path, content: Any, ema: bool, say: Callable[[str], None]) -> tuple[Mapping[Any, Any], bool]:
    """The innermost known container, and whether it is one of averaged weights."""
    averaged = False
    for _ in range(_DEEP):
        if not isinstance(content, Mapping):
            break
        plain = [key for key in _PLAIN if isinstance(content.get(key), Mapping)]
        means = [key for key in _AVERAGED if isinstance(content.get(key), Mapping)]
        if not plain and not means:
            break
        chosen = means[0] if means and (ema or not plain) else plain[0]
        averaged = averaged or chosen in means
        if others := [key for key in (*plain, *means) if key != chosen]:
            hint = "; --ema reads the averaged ones" if means and not averaged else ""
            say(f"{file.name} holds weights under {chosen} and {', '.join(others)}; those of {chosen} are read{hint}")
        content = content[chosen]
    return (content if isinstance(content, Mapping) else {}), averaged


def _average(file: Path, state: dict[str, Tensor], ema: bool, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The plain weights of a state dict, or the averaged ones when it has both and they are asked for."""
    means = {key: value for key, value in state.items() if _AVERAGED_KEY.match(key)}
    if not means and ema:
        raise ValueError(
            f"{file} holds no averaged weights, neither under {', '.join(_AVERAGED[:3])} nor among its keys"
        )
    if not means or len(means) == len(state):
        return state
    if ema:
        return means
    say(f"{file.name} holds plain and averaged weights; the plain ones are read; --ema reads the averaged ones")
    return {key: value for key, value in state.items() if key not in means}


def _unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all keys share because the model was wrapped."""
    plain = dict(state)
    for inner in _INNER:
        plain = {key.replace(inner, ""): value for key, value in plain.items()}
    if len(plain) > 1 and all(key.startswith("module.") for key in plain if key != "n_averaged"):
        plain.pop("n_averaged", None)  # how many weights AveragedModel has averaged
    while prefix := next((p for p in _WRAPPERS if plain and all(key.startswith(p) for key in plain)), None):
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


def _under(file: Path, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The keys that start with ``prefix``, without it and the point behind it."""
    whole = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    found = {key.removeprefix(whole): value for key, value in state.items() if key.startswith(whole)}
    if not found:
        raise ValueError(f"no key in {file} starts with {whole!r}{_has({key.split('.')[0]: None for key in state})}")
    return _unwrap(found)


def _has(content: Mapping[Any, Any]) -> str:
    """ "; it has a, b, ..."."""
    names = [legible(str(key)) for key in list(content)[: _SHOWN + 1]]
    more = ", ..." if len(names) > _SHOWN else ""
    return f"; it has {', '.join(names[:_SHOWN])}{more}" if names else ""
