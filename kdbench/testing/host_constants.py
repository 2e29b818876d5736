"""Numbers and lists that the host hands to a device, seen where Python asks for them; part of the conformance kit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Makers of tensors, and the position of the first argument that may hold values.
_MAKERS = {
    torch.tensor: 0,
    torch.as_tensor: 0,
    torch.asarray: 0,
    torch.Tensor.new_tensor: 1,
    torch.sparse_coo_tensor: 0,
    torch.sparse_csr_tensor: 0,
    torch.sparse_csc_tensor: 0,
    torch.sparse_compressed_tensor: 0,
}
#: How many values they take from there on; one where nothing is said.
_VALUES = {
    torch.sparse_coo_tensor: 2,
    torch.sparse_csr_tensor: 3,
    torch.sparse_csc_tensor: 3,
    torch.sparse_compressed_tensor: 3,
}
#: Those arguments by name.
_NAMES = {"data", "obj", "values", "indices"} | {
    f"{part}_indices" for part in ("crow", "ccol", "col", "row", "compressed", "plain")
}
#: Ways of a tensor to numpy, which lies on the host.
_TO_NUMPY: set[Callable[..., Any]] = {torch.Tensor.numpy, torch.Tensor.__array__}
#: Ways of a tensor to a number or a text of Python's.
_TO_PYTHON = {
    getattr(torch.Tensor, name)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__format__")
} | {torch.Tensor.__repr__}


class HostConstants(TorchFunctionMode):
    """Tells ``note`` where a tensor is made of Python's or numpy's values, and where a list is an index.

    On "meta" the dispatcher shows none of this (torch 2.9 to 2.14). What is not seen here is what runs inside
    a function of torch that is itself written in Python, ``torch.autograd.grad`` and ``Tensor.backward`` above
    all: torch takes the mode off meanwhile.

    >>> found = []
    >>> with HostConstants(found.append):
    ...     _ = torch.zeros(3)[[0, 2]] * torch.tensor(2.0)
    >>> found
    ['an index that is a list or an array copies from the host', 'torch.tensor copies from the host']
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function and method of torch that Python calls."""
        given = kwargs or {}
        if what := copied(func, args, given):
            self.note(what)
        return func(*args, **given)


def copied(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What such a call would copy between the host and the device of its tensors, in words; "" if nothing.

    >>> copied(torch.tensor, [2.0], {}), copied(torch.zeros, [3], {})
    ('torch.tensor copies from the host', '')
    """
    if func in _MAKERS:
        first = _MAKERS[func]
        values = [*args[first : first + _VALUES.get(func, 1)], *(kwargs[name] for name in _NAMES & kwargs.keys())]
        if any(value is not None and not isinstance(value, Tensor) for value in values):
            name = func.__name__
            return f"{'Tensor' if first else 'torch'}.{name} copies from the host"
    elif func is torch.Tensor.new:
        if any(_listed(value) and not isinstance(value, torch.Size) for value in args[1:2]):
            return "Tensor.new copies from the host"
    elif func is torch.Tensor.__getitem__ or func is torch.Tensor.__setitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(map(_listed, index)):
            return "an index that is a list or an array copies from the host"
    elif func in _TO_PYTHON:
        return f"Tensor.{func.__name__} waits for the device to read a value"
    elif func in _TO_NUMPY:
        return f"Tensor.{func.__name__} takes values to the host"
    return ""


def _listed(value: object) -> bool:
    """Whether this is a list, a range, an array or the like, and not a tensor."""
    return hasattr(value, "__len__") and not isinstance(value, Tensor)
