"""Seals: a checksum over a canonical text, so that a file that was cut or edited is never believed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def checksum(values: Mapping[str, Any]) -> str:
    """sha256, 64 hex digits, over the canonical text of JSON-like values.

    >>> checksum({"beta": 400}) == checksum({"beta": 400.0})
    True
    """
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def parsed(content: bytes) -> Any:
    """What a file of JSON says.

    Raises:
        ValueError: it is none, in words that can stand in a sentence.

    >>> parsed(b'{"beta": 400}')
    {'beta': 400}
    """
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it has a number of thousands of digits") from None


def canonical(value: Any) -> str:
    """One text for equal values: 400 is 400.0, a list is a tuple, keys come in any order.

    >>> canonical({"b": (1.0, 2), "a": float("inf")})
    '{"a":"inf","b":[1,2]}'
    """
    try:
        return _dumped(_plain(value, _whole))
    except ValueError:  # one of millions of numbers is not finite, and they are looked at one by one
        return _dumped(_plain(value, _written))


def _dumped(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _whole(value: float) -> float:
    return int(value) if value.is_integer() else value


def _written(value: float) -> float | str:
    return _whole(value) if math.isfinite(value) else str(value)


def _plain(value: Any, number: Callable[[float], float | str]) -> Any:
    """Numbers that are equal become the same text."""
    kind = type(value)
    if kind is float:
        return number(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is dict or isinstance(value, Mapping):
        # The plain kinds without a call of their own: a report reads millions of them.
        return {
            str(key): number(inner)
            if (kind := type(inner)) is float
            else inner
            if kind is str or kind is int or inner is None
            else _plain(inner, number)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inner, number) for inner in value]
    return number(float(value)) if isinstance(value, float) else value
