"""How a user's own words are repeated in an error."""

from __future__ import annotations


def quoted(text: object, length: int = 60) -> str:
    """In quotes and cut where they are long.

    >>> quoted("a" * 100, 10)
    "'aaaaaaa...'"
    """
    whole = str(text)
    return repr(whole if len(whole) <= length else whole[: length - 3] + "...")
