"""Globs of names that have brackets of their own: ``semckd*``, ``sdd@tuned[*]``."""

from __future__ import annotations

from fnmatch import fnmatchcase


def fits(word: str, name: str) -> bool:
    """The name itself, or a glob of it; a bracket is one of a label, not of a glob.

    >>> [fits(word, "semckd[beta=4]") for word in ("semckd[beta=4]", "semckd*", "*[beta=?]", "semckd")]
    [True, True, True, False]
    """
    return word == name or (any(sign in word for sign in "*?") and fnmatchcase(name, word.replace("[", "[[]")))
