"""A loss convention: the weights that a family of published tables was made with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources.abc import Traversable
from itertools import combinations
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.suites._files import HOME, find, read, sentence, shipped
from kdbench.suites.kinds import NotNegative, Said

Value = bool | int | float | str
_PREFIX = "convention_"
_COMMON = ("ce_weight", "kd_weight", "tau")


class Convention(BaseModel):
    """Hyper-parameters of every method in one published setting.

    A method's values are, the later beating the earlier: ``ce_weight`` and ``kd_weight`` of
    the convention, its table in ``methods``, its tables in ``pairs``: those of globs such as
    "resnet32x4:*", in their order, then that of the pair itself.

    >>> common = convention("semckd")
    >>> common.hyper("fitnet", "resnet32x4:resnet8x4", known=["ce_weight", "kd_weight", "beta"])
    {'ce_weight': 1.0, 'kd_weight': 1.0, 'beta': 100.0}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Said
    title: str
    ce_weight: NotNegative
    kd_weight: NotNegative
    combined_kd_weight: NotNegative  # of a combination that has kd among its parts
    methods: dict[str, dict[str, Value]] = {}
    pairs: dict[str, dict[str, dict[str, Value]]] = {}  # "teacher:student", or a glob of it -> method -> values

    def hyper(self, method: str, pair: str, known: Iterable[str]) -> dict[str, Any]:
        """Values of one method, or of a combination ``a+b``, on ``teacher:student``.

        In a combination each part brings its own weights and CE has the convention's. KD has
        ``combined_kd_weight`` if kd is a part; else, as the temperature, what a part's table
        says of it (the largest, if several do), else the convention's. A table of a combination
        ``a+b``, in order of the names, beats all that, also in ``a+b+c``, where CE stays the
        convention's; that of more parts beats that of fewer. Only names in ``known`` are
        returned: a class without KD, such as the plain student, is given none.
        """
        known = set(known)
        parts = sorted(part.strip() for part in method.split("+"))
        values: dict[str, Any] = {"ce_weight": self.ce_weight, "kd_weight": self.kd_weight}
        if len(parts) == 1:
            values |= self._own(method, pair)
        else:
            tables = {part: self._own(part, pair) for part in parts if part != "kd"}
            for key in ("kd_weight", "tau"):
                said = [float(table[key]) for table in tables.values() if key in table]
                values |= {key: max(said)} if said else {}
            if "kd" in parts:
                values["kd_weight"] = self.combined_kd_weight
            for part, table in tables.items():
                own = {key: value for key, value in table.items() if key not in _COMMON}
                values |= _spelt(own, [part], known)
            for some in (some for size in range(2, len(parts) + 1) for some in combinations(parts, size)):
                table = self._own("+".join(some), pair)
                if len(some) < len(parts):
                    table.pop("ce_weight", None)
                if "kd" in parts and "kd" not in some:
                    table.pop("kd_weight", None)  # KD was asked for
                values |= _spelt(table, some, known)
        return {key: value for key, value in values.items() if key in known}

    def _own(self, method: str, pair: str) -> dict[str, Value]:
        found = dict(self.methods.get(method, {}))
        wide = [table for glob, table in self.pairs.items() if "*" in glob and fnmatchcase(pair, glob)]
        for table in (*wide, self.pairs.get(pair, {})):
            found |= table.get(method, {})
        return found


def _spelt(table: Mapping[str, Value], parts: Iterable[str], known: Collection[str]) -> dict[str, Value]:
    """A table of some parts, its keys as they are named in the combination: ``part.key`` where two share one."""
    found = {}
    for key, value in table.items():
        full = [name for name in (f"{part}.{key}" for part in parts) if name in known]
        found[full[0] if len(full) == 1 and key not in known else key] = value
    return found


def convention_names() -> list[str]:
    """Every convention that kdbench brings, sorted.

    >>> convention_names()
    ['crd', 'semckd']
    """
    return [file.removeprefix(_PREFIX).removesuffix(".toml") for file in shipped() if file.startswith(_PREFIX)]


def convention(name: str) -> Convention:
    """The convention of a name, or of the path of a TOML file.

    Raises:
        ValueError: there is none, or the file does not say what a convention must.

    >>> convention("crd").kd_weight, convention("semckd").kd_weight
    (0.0, 1.0)
    >>> convention("semkd")
    Traceback (most recent call last):
    ValueError: no convention 'semkd' (a file of yours ends in .toml); did you mean semckd?
    """
    file, home = find("convention", name, convention_names(), _PREFIX)
    return _own(name) if home is HOME else _checked(file)


@cache
def _own(name: str) -> Convention:
    """One of kdbench's: read once."""
    return _checked(HOME / f"{_PREFIX}{name}.toml")


def _checked(file: Traversable) -> Convention:
    try:
        return Convention.model_validate(read(file))
    except ValidationError as error:
        raise ValueError(f"convention {file.name}: {sentence(error)}") from error
