"""One thing that all lanes share and none may change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """How to look at it, and how to put it back."""

    what: str  # in a sentence
    look: Callable[[], Any]
    put: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = operator.eq
    imports: bool = False  # an import may change it, too


def identical(before: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether these are the same objects; none of them is asked."""
    return len(before) == len(now) and all(one is other for one, other in zip(before, now, strict=True))
