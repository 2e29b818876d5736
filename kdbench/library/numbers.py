"""Whole numbers as users have them: Python's, numpy's, torch's."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole_number(value: Any) -> int | None:
    """One whole number, numpy's too; None: it is none, and neither is a truth value.

    >>> whole_number(16), whole_number(True), whole_number(16.0), whole_number("16")
    (16, None, None, None)
    """
    if isinstance(value, bool | Tensor):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def row_of_numbers(values: Any) -> Tensor:
    """(N,) int64, where ``values`` lie, from anything that holds whole numbers in a row.

    Raises:
        ValueError: it does not; the text is what it is instead.

    >>> row_of_numbers([0, 2, 1])
    tensor([0, 2, 1])
    >>> row_of_numbers([0.5])
    Traceback (most recent call last):
    ValueError: torch.float32 of shape (1,)
    """
    kind = type(values).__name__
    try:
        if not isinstance(values, Tensor) and hasattr(values, "__array__"):
            values = _of_numpy(values, kind)
        found = torch.as_tensor(values)
        if found.is_nested or found.is_quantized or found.is_meta or found.layout is not torch.strided:
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(_what(values, kind)) from None
    if found.dim() != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"{found.dtype} of shape {tuple(found.shape)}")
    return found.long()


def _of_numpy(values: Any, kind: str) -> Any:
    """Of any byte order, stride and width: torch takes only some of them."""
    if np.ma.is_masked(values):
        raise ValueError
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        return array
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError
    return torch.from_numpy(array.astype(np.int64))


def _what(values: Any, kind: str) -> str:
    if not isinstance(values, Tensor):
        return f"{kind} with hidden entries" if np.ma.is_masked(values) else kind
    if values.is_meta:
        return "a tensor without values (device meta)"
    return "a nested tensor" if values.is_nested else f"a tensor of layout {values.layout} and type {values.dtype}"
