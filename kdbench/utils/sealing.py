"""Seals: a checksum over a canonical text, so that a file that was cut or edited is never believed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
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
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers that are equal become the same text."""
    kind = type(value)
    if kind is float:  # the plain kinds first: a report reads millions of them
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if kind is str or kind is int or value is None:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(float(value)) if isinstance(value, float) else value
