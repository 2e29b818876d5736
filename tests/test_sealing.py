"""The text that a checksum is taken of: the same for equal contents, another for any difference."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from kdbench.utils.sealing import canonical, checksum


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 400, "b": [1, 2]}, {"b": (1.0, 2.0), "a": 400.0}),
        ({1: "x"}, {"1": "x"}),
        ({"a": float("inf")}, {"a": "inf"}),
        ({"a": -0.0}, {"a": 0}),
    ],
)
def test_equal_contents(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert canonical(one) == canonical(other)
    assert checksum(one) == checksum(other)


@pytest.mark.parametrize("other", [{"a": 1.5}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1]}, {}])
def test_other_contents(other: dict[Any, Any]) -> None:
    assert checksum(other) != checksum({"a": 1})


def test_the_text_and_the_sum() -> None:
    """Fixed for ever: files of years ago are checked against it."""
    value = {"b": [1.0, 2.5, None], "a": {"umlaut": "ä", "nan": float("nan")}}
    assert canonical(value) == '{"a":{"nan":"nan","umlaut":"\\u00e4"},"b":[1,2.5,null]}'
    assert checksum(value) == hashlib.sha256(canonical(value).encode()).hexdigest()
    assert checksum(json.loads(canonical(value))) == checksum(value)
