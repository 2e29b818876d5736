"""What a method keeps where ``state_dict()`` does not see it; part of the conformance kit."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.distiller import Distiller, Pair
from kdbench.engine.torch_private import MODULE_ATTRIBUTES

_DEPTH = 6


def loose_state(method: nn.Module) -> dict[str, object]:
    """Values by path: plain attributes, non-persistent buffers, the class's and the file's variables.

    Tensors and generators come as digests, so that two snapshots can be compared.
    """
    found: dict[str, object] = {}
    modules = set(method.modules())
    for prefix, module in method.named_modules():
        for path, value in _own(prefix, module):
            found |= _walk(path, value, modules, _DEPTH)
    kept = method.state_dict().keys()
    for path, buffer in method.named_buffers(remove_duplicate=False):
        if path not in kept:
            found[path] = _digest(buffer)
    for klass in {base for module in modules for base in type(module).__mro__}:
        if klass.__module__.partition(".")[0] != "torch" and klass not in (object, Distiller):
            found |= _variables(klass.__name__, vars(klass), modules)
    file = sys.modules.get(type(method).__module__)
    return found | (_variables("", vars(file), modules) if file else {})


def plain_tensors(method: nn.Module) -> list[str]:
    """Paths of tensors in plain attributes: they do not move with ``.to(device)``."""
    modules = set(method.modules())
    return [
        path
        for prefix, module in method.named_modules()
        for start, value in _own(prefix, module)
        for path, leaf in _leaves(start, value, modules, _DEPTH)
        if isinstance(leaf, Tensor)
    ]


def _own(prefix: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if name not in MODULE_ATTRIBUTES:
            yield f"{prefix}.{name}".lstrip("."), value


def _variables(owner: str, names: Mapping[str, Any], modules: set[nn.Module]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in list(names.items()):
        if not name.startswith("__") and name != "_abc_impl":
            found |= _walk(f"{owner}.{name}".lstrip("."), value, modules, _DEPTH)
    return found


def _walk(path: str, value: Any, modules: set[nn.Module], depth: int) -> dict[str, object]:
    return {p: _digest(leaf) for p, leaf in _leaves(path, value, modules, depth)}


def _leaves(path: str, value: Any, modules: set[nn.Module], depth: int) -> Iterator[tuple[str, Any]]:
    """Numbers, strings, tensors and generators in ``value``, however nested. A ``Pair`` is a fact, not state."""
    if depth == 0 or isinstance(value, Pair | type | ModuleType):
        return
    if isinstance(value, nn.Module):
        if value not in modules:  # in a plain list, say: its tensors are not the method's
            for name, tensor in value.state_dict().items():
                yield f"{path}.{name}", tensor
    elif value is None or isinstance(value, Tensor | bool | int | float | complex | str | bytes | torch.Generator):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inside in list(value.items()):
            yield from _leaves(f"{path}[{key!r}]", inside, modules, depth - 1)
    elif isinstance(value, list | tuple) or type(value).__name__ == "deque":
        for index, inside in enumerate(value):
            yield from _leaves(f"{path}[{index}]", inside, modules, depth - 1)
    elif hasattr(value, "bit_generator") or hasattr(value, "getstate"):  # numpy's and Python's random numbers
        yield path, value
    elif hasattr(value, "__dict__") and not callable(value):
        for name, inside in list(vars(value).items()):
            yield from _leaves(f"{path}.{name}", inside, modules, depth - 1)


def _digest(value: Any) -> object:
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(raw).hexdigest(), tuple(value.shape)
    if hasattr(value, "bit_generator") or hasattr(value, "getstate"):
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    return value
