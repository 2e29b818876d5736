"""The words for number formats, and those that older files have for them."""

from __future__ import annotations

NAMES = ("fp32", "tf32", "bf16", "fp16", "amp")

#: What 0.1.0 called them.
_OLD = {"exact": "fp32", "fast": "amp"}


def canonical(word: str) -> str:
    """Today's word for a number format that a file names; a word that is none of the old ones stays as it is.

    >>> canonical("exact"), canonical("bf16")
    ('fp32', 'bf16')
    """
    return _OLD.get(word, word)
