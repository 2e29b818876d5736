"""For values that may be None, and are not."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def there(value: T | None) -> T:
    """The value, which is there."""
    assert value is not None
    return value
