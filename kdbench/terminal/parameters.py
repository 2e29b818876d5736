"""The hyper-parameters of a method on its card: values, what each is, and where conventions have others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from kdbench import registry, suites
from kdbench.distiller import Distiller

_ARG = re.compile(r"    (\w+): (.*(?:\n {8}.*)*)")


def lines(name: str, given: Mapping[str, object]) -> list[str]:
    """One line each, with the values ``given`` in place of the defaults.

    >>> lines("mkl", {"weight": 2.0})[0]
    'weight = 2.0 (8.0 by default): of the mean'
    """
    known, told = registry.get(name).hyperparameters(), _told(name)
    made = []
    for key, hyper in known.items():
        value = given.get(key, hyper.default)
        others = [f"or {_shown(other)}" for other in hyper.choices if other != value]
        others += [] if key not in given else [f"{_shown(hyper.default)} by default"]
        said = {one: suites.convention(one).hyper(name, "", known).get(key) for one in suites.convention_names()}
        if len({*said.values()}) == 1 and hyper.default not in (only := {*said.values()} - {None}):
            others += [f"{_shown(one)} in every convention" for one in only]
        else:
            others += [f"{_shown(v)} in convention {c}" for c, v in said.items() if v not in (None, hyper.default)]
        if key == "kd_weight" and (reason := _instead_of_kd(name, {c for c, v in said.items() if v == 0})):
            others.append(reason)
        what = f": {told[key]}" if key in told else ""
        made.append(f"{key} = {_shown(value)}" + (f" ({', '.join(others)})" if others else "") + what)
    return made or ["none"]


def by_pair(name: str) -> list[str]:
    """What conventions give a method on single pairs, equal values together.

    >>> by_pair("skd")
    ['weight = 0.5, ce_weight = 0.5: resnet32x4:resnet8x4 (convention crd)']
    """
    known = registry.get(name).hyperparameters()
    found: dict[str, dict[str, list[str]]] = {}
    for convention in map(suites.convention, suites.convention_names()):
        usual, said = convention.hyper(name, "", known), {}
        for pair in convention.pairs:
            here = convention.hyper(name, pair, known)
            own = [key for key in known if here.get(key) != usual.get(key)]
            said[pair] = ", ".join(f"{key} = {_shown(here[key])}" for key in own)
        for pair, words in said.items():
            wider = (one for one in said if one != pair and fnmatchcase(pair, one))
            if words and words not in (said[one] for one in wider):
                found.setdefault(words, {}).setdefault(pair, []).append(convention.name)
    every = suites.convention_names()
    return [
        f"{words}: " + ", ".join(pair + ("" if of == every else f" (convention {of[0]})") for pair, of in pairs.items())
        for words, pairs in found.items()
    ]


def _told(name: str) -> dict[str, str]:
    """What docstrings say of each hyper-parameter; where two parts share a name, ``part.key``."""
    cls = registry.get(name)
    found: dict[str, str] = {}
    for part in cls.components():
        own = part.hyperparameters()
        for base in reversed(part.__mro__):
            if base is Distiller and "kd_weight" not in own:
                continue  # its temperature is KD's
            told = (inspect.getdoc(base) or "").partition("\nArgs:\n")[2].split("\n\n")[0]
            for key, words in _ARG.findall(told):
                sentence = " ".join(words.replace("``", "").split()).rstrip(".")
                found[key] = found[f"{registry.name_of(part)}.{key}"] = sentence
    return found


def _shown(value: object) -> str:
    return str(value) if value != "" else '""'


def _instead_of_kd(name: str, without: Collection[str]) -> str:
    """Why a combination has no KD in a convention that gives it to every method that does not replace it."""
    parts = name.split("+")
    given = [one for one in map(suites.convention, sorted(without)) if one.kd_weight]
    found = [part for part in parts if any(not one.hyper(part, "", ["kd_weight"])["kd_weight"] for one in given)]
    stands = "stands" if len(found) == 1 else "stand"
    return f"no convention adds KD: {' and '.join(found)} {stands} in its place" if found and len(parts) > 1 else ""
