"""Globs of names that have brackets of their own: ``semckd*``, ``sdd@tuned[*]``."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase


def fits(word: str, name: str) -> bool:
    """The name itself, or a glob of it; a bracket is one of a label, not of a glob. ``b+a`` is ``a+b``.

    >>> fits("nkd+mgd[gamma=1]", "mgd+nkd[gamma=1]")
    True
    >>> [fits(word, "semckd[beta=4]") for word in ("semckd[beta=4]", "semckd*", "*[beta=?]", "semckd")]
    [True, True, True, False]
    """
    return name in (word, in_order(word)) or (
        any(sign in word for sign in "*?") and fnmatchcase(name, word.replace("[", "[[]"))
    )


def in_order(word: str) -> str:
    """A combination as tables have it, its parts in alphabetical order; any other word as it is.

    >>> in_order("semckd+crd@tuned[nce_k=10]"), in_order("resnet20:resnet8")
    ('crd+semckd@tuned[nce_k=10]', 'resnet20:resnet8')
    """
    name = (re.match(r"[^\[@:]*", word) or [""])[0]
    return "+".join(sorted(name.split("+"))) + word[len(name) :]
