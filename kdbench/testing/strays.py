"""Tensors that are not where they should be, seen while a loss is computed; part of the conformance kit."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor

from kdbench.engine.torch_private import TorchDispatchMode
from kdbench.testing.host_constants import HostConstants

_ATEN = torch.ops.aten


class Strays(TorchDispatchMode):
    """Notes in ``found`` what is done inside with tensors that are not on ``device``, and where.

    So it does what is copied from the host: the numbers and lists that ``torch.tensor`` is given, an index
    that is a list. These are seen in two ways, because each has its gaps: where Python asks for them
    (``HostConstants``), and where torch's dispatcher lifts the host's tensor, which it does on the CPU and for
    CUDA, in backward passes too, and not on "meta".

    >>> with Strays(torch.device("meta")) as strays:
    ...     _ = torch.zeros(3, device="meta") * torch.arange(3, device="cpu").sum()
    >>> any("arange on cpu" in what for what in strays.found)
    True
    """

    def __init__(self, device: torch.device) -> None:
        mode: Any = super()  # torch's, which has no types
        mode.__init__()
        self.device = device
        self.found: list[str] = []
        self._constants: Any = HostConstants(self.note)
        #: Of the last ``x[...] = number``. torch makes it a tensor of the CPU. CUDA fills it into a slice as a
        #: number, and copies it to the device for places that a tensor of integers names.
        self._number: Tensor | None = None

    def __enter__(self) -> Self:
        """Watch from here on."""
        mode: Any = super()
        mode.__enter__()
        self._constants.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Watch no longer."""
        self._constants.__exit__(*error)
        mode: Any = super()
        mode.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operator, also for those of a backward pass."""
        given = kwargs or {}
        if func is _ATEN.lift_fresh.default and args[0].dim() == 0 and self._assigns():
            self._number = func(*args)
            return self._number
        self._look(func, (args, given))
        if func is _ATEN.index_put_.default and args[2] is self._number and any(map(_is_integer, args[1])):
            self.note("a number put at places that a tensor names copies from the host")
        result = func(*args, **given)
        if func is not torch.ops.prim.device.default:  # which only asks
            self._look(func, result)
        if func is _ATEN.lift_fresh.default:
            self.note("torch.tensor copies from the host")
        return result

    def note(self, what: str) -> None:
        """Add a finding, with the innermost line that is neither torch's nor of this class."""
        frame = self._frame()
        where = f" ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})" if frame else ""
        if what + where not in self.found:
            self.found.append(what + where)

    def _frame(self) -> FrameType | None:
        """The innermost that is neither torch's nor of this class."""
        frame, ours = inspect.currentframe(), (id(self), id(self._constants))
        while frame and ("/torch/" in frame.f_code.co_filename or id(frame.f_locals.get("self")) in ours):
            frame = frame.f_back
        return frame

    def _assigns(self) -> bool:
        """Whether that frame is at ``x[...] = y``, all three known, and not within one of them."""
        frame = self._frame()
        return frame is not None and frame.f_code.co_code[frame.f_lasti] == dis.opmap["STORE_SUBSCR"]

    def _look(self, func: Any, values: object) -> None:
        for value in leaves(values):
            device = value.device if isinstance(value, Tensor) and value is not self._number else value
            if isinstance(device, torch.device) and device.type != self.device.type:
                self.note(f"{func.overloadpacket.__name__} on {device}")


def leaves(values: object) -> Iterator[object]:
    """What lies in the lists, tuples and dicts that an operator takes or gives.

    >>> list(leaves([1, (2, {"a": [3]})]))
    [1, 2, 3]
    """
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from leaves(value)
    else:
        yield values


def _is_integer(index: Tensor | None) -> bool:
    return index is not None and index.dtype not in (torch.bool, torch.uint8)


@contextmanager
def on_meta() -> Iterator[None]:
    """Inside, torch.autocast takes the device "meta" too, where there is nothing to cast; by itself it raises.

    >>> with on_meta(), torch.autocast("meta"):
    ...     torch.zeros(3, device="meta").device
    device(type='meta')
    """
    real: Any = torch.autocast

    def autocast(device_type: str, *args: Any, **options: Any) -> AbstractContextManager[object]:
        return nullcontext() if device_type == "meta" else real(device_type, *args, **options)

    with patch.object(torch, "autocast", autocast):
        yield
