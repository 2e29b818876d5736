"""Methods as a command line has them: ``a,b``, ``fit*``, ``semckd[beta=200,400]``, ``sdd[standardise]+itrd``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from itertools import product
from math import prod
from typing import NamedTuple

from kdbench.registry._words import quoted
from kdbench.registry.discovery import get, name_of, names
from kdbench.registry.hyper import check, convert

#: A name, its brackets, and a + behind them.
_PART = r"([^\[\]+]+)(\[[^\[\]]*\])?(\s*\+|$)"
#: Rows that the values in one pair of brackets may make.
MOST = 1000


class Spec(NamedTuple):
    """One method as asked for on the command line: a name and what was set beside it.

    >>> str(Spec("fitnet", (("beta", 10.0), ("tap", 1))))
    'fitnet[beta=10.0,tap=1]'
    """

    name: str
    hyper: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        inside = ",".join(f"{key}={value}" for key, value in self.hyper)
        return f"{self.name}[{inside}]" if inside else self.name


def parse(text: str) -> list[Spec]:
    """``a,b``, ``all``, ``fit*``, ``semckd[beta=200,400]``, ``mag+crd`` -> specifications.

    Values after one key are alternatives; several keys make the product of their values. Of a switch the key alone
    switches it on. In a combination each part may have brackets of its own; the last pair may set what is another's.

    Raises:
        ValueError: unknown method or hyper-parameter, a value of the wrong kind.

    >>> [str(spec) for spec in parse("kd, fitn*[beta=1;10], sdd[standardise]+itrd")]
    ['kd', 'fitnet[beta=1.0]', 'fitnet[beta=10.0]', 'itrd+sdd[standardise=True]']
    """
    specs: list[Spec] = []
    for item in _split(text):
        parts = re.findall(_PART, item)
        if "".join(map("".join, parts)) != item or parts[-1][2]:
            raise ValueError(f"cannot read {quoted(item)}; write name or name[key=value]")
        wanted = "+".join(part.strip() for part, _, _ in parts)
        behind = [*(part.strip() for part, _, _ in parts[:-1]), ""]  # the last brackets are of them all
        given = [
            (part.strip(), inside[1:-1], whose)
            for (part, inside, _), whose in zip(parts, behind, strict=True)
            if inside
        ]
        for name in _expand(wanted):
            specs += [Spec(name, hyper) for hyper in _alternatives(name, given)]
    if not specs:
        raise ValueError("no method was asked for; try --methods all or `kdbench list methods`")
    return list(dict.fromkeys(specs))


def _split(text: str) -> list[str]:
    """At commas outside brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def _expand(wanted: str) -> list[str]:
    if wanted == "all":
        return names()
    if any(sign in wanted for sign in "*?"):
        found = [name for name in names() if fnmatchcase(name, wanted)]
        if not found:
            raise ValueError(f"no method matches {quoted(wanted)}; there are {', '.join(names())}")
        return found
    return [name_of(get(wanted))]  # raises with the nearest names


def _alternatives(name: str, given: Sequence[tuple[str, str, str]]) -> list[tuple[tuple[str, object], ...]]:
    """``given``: (the name before the brackets, what is in them, the part that they are of, "" where of all)."""
    cls = get(name)
    known = cls.hyperparameters()
    values: dict[str, list[object]] = {}
    said: dict[str, tuple[str, str]] = {}  # key -> the brackets that set it
    for part, inside, whose in given:
        key, own = "", get(whose).hyperparameters() if whose else known
        for token in re.split(r"[,;]", inside) if inside.strip() else ():
            switch = _full(token, part, known, name)
            if switch in known and type(known[switch].default) is bool and _serves(switch, whose, own):
                key, token = switch, "true"
            elif "=" in token:
                key, _, token = (word.strip() for word in token.partition("="))
                full = _full(key, part, known, name)
                if full not in known or not _serves(full, whose, own):
                    there = [one for one in own if _full(one, part, known, name) in known]
                    what = f"no {quoted(key)} to set in {name}" if key in own else f"no hyper-parameter {quoted(key)}"
                    raise ValueError(f"method {whose or name!r} has {what}; it has {', '.join(there)}")
                key = full
            elif not key:
                raise ValueError(f"cannot read {quoted(f'[{inside}]')} after {part!r}; write [key=value]")
            value = convert(token.strip(), known[key].default, f"{name}[{key}]")
            check(cls, key, value, f"{name}[{key}]")
            if said.setdefault(key, (part, inside)) != (part, inside):
                raise ValueError(f"{key} is one for the whole of {name}; set it in one of its brackets")
            values.setdefault(key, []).append(value)
    if (many := prod(map(len, values.values()))) > MOST:
        raise ValueError(f"the values in the brackets of {name} make {many:,} rows; {MOST:,} are the most")
    return [tuple(sorted(zip(values, chosen, strict=True))) for chosen in product(*values.values())]


def _full(key: str, part: str, known: Collection[str], within: str) -> str:
    """The name in a combination of what a part calls ``key``: with the part before it where others have it, too."""
    key = key.strip()
    whose, _, short = key.rpartition(".")
    if f"{part}.{key}" in known:
        return f"{part}.{key}"
    return short if key not in known and short in known and short in _of(whose, within) else key


def _serves(key: str, whose: str, own: Collection[str]) -> bool:
    return key.removeprefix(f"{whose}.") in own if whose else True


def _of(part: str, within: str) -> Collection[str]:
    return get(part).hyperparameters() if part in within.split("+") else ()
