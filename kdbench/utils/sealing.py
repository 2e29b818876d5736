"""One text for one content, and its checksum: how a JSON file says that nobody has edited it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: 400 and 400.0, lists and tuples, any order of the keys.

    What JSON has no number for becomes a string: "inf", "-inf", "nan".
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of the canonical text; leave out the field that keeps it."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers that are equal become the same text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    return value
