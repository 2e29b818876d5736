"""What must hold of every command, whatever went wrong: a known exit code, sentences of ours, no traceback."""

from __future__ import annotations

import re
from collections.abc import Collection

from campaign.area import Fault
from campaign.child import Ended

CODES = frozenset({0, 1, 2, 130, 143})
#: Words that Python, click's types or pydantic say, and no person.
FOREIGN = re.compile(
    r"Traceback|error of its own|invalid literal|NoneType|has no attribute|not subscriptable|could not convert"
    r"|Exceeds the limit|validation error|positional argument|unsupported operand|codec can't|object is not"
    r"|Errno|out of range|unhashable|unexpected keyword|must be str|embedded null|<class "
)


def sound(ended: Ended, codes: Collection[int] = CODES, *, but: str = "") -> Ended:
    """The same, if it ended with one of these codes and in words of ours.

    Args:
        ended: a command.
        codes: how it may have ended.
        but: a pattern of words that are not ours to answer for.

    Raises:
        Fault: it did not.
    """
    said = re.sub(but, "", ended.said) if but else ended.said
    if match := FOREIGN.search(said):
        raise Fault(f"it says {match.group()!r}: ...{said[max(0, match.start() - 200) : match.end() + 800]}")
    if ended.code not in codes:
        wanted = " or ".join(map(str, sorted(codes)))
        raise Fault(f"exit code {ended.code}, not {wanted}: {shortened(said)}")
    if ended.code not in (0, 130, 143) and not ended.said.strip():
        raise Fault(f"exit code {ended.code} without a word")
    return ended


def shortened(said: str) -> str:
    """The end of what was said, in one line."""
    return " ".join(said.split())[-500:]
