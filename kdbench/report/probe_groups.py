"""Findings of one method on one pair, over its seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from kdbench.utils.findings import TEACHER, Finding, Matrix


@dataclass
class Group:
    """What a table has in one row: the same probe of the same method on the same pair, one finding for each seed."""

    suite: str
    probe: str
    variant: str
    teacher: str
    student: str
    method: str
    findings: list[Finding]

    @property
    def seeds(self) -> list[int]:
        """Seeds that were measured; none for a teacher."""
        return sorted({one.seed for one in self.findings if one.seed is not None})

    @property
    def name(self) -> str:
        """Of a figure's panel: the method over its pair, and what it was measured on."""
        pair = f"{self.teacher} → {self.student}" if self.teacher and self.student else self.student or self.teacher
        return "\n".join(words for words in (self.method, pair, self.variant) if words)

    def values(self, name: str) -> list[float]:
        """A number of the summary, for each seed that has it."""
        return [value for one in self.findings if (value := one.summary.get(name)) is not None]

    def mean(self, name: str) -> float | None:
        """Its mean over the seeds."""
        found = self.values(name)
        return fmean(found) if found else None

    def matrix(self, name: str) -> Matrix | None:
        """The mean of a matrix over the seeds that have it with the same names; None: none has it."""
        found = [one.matrices[name] for one in self.findings if name in one.matrices]
        found = [one for one in found if (one.rows, one.columns) == (found[0].rows, found[0].columns)]
        if not found:
            return None
        values = tuple(
            tuple(
                fmean(known) if (known := [v for one in found if (v := one.values[i][j]) is not None]) else None
                for j in range(len(found[0].columns))
            )
            for i in range(len(found[0].rows))
        )
        return Matrix(rows=found[0].rows, columns=found[0].columns, values=values)


#: What of an identity is the network's own, and differs from row to row.
_OWN = {"network", "teacher", "normalisation", "precision", "modules of the method"}


def groups(found: Iterable[Finding]) -> list[Group]:
    """By suite, probe, variant, pair and method: teachers first, then the plain student, then the others.

    Measurements that differ in more than the network are never averaged, and never under one name: what differs
    is part of their variant.
    """
    every = sorted(found, key=lambda one: one.finished)
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for one in every:
        alike.setdefault((one.suite, one.probe, one.variant), []).append(one)
    made: dict[tuple[str, str, str, str, str, str], dict[object, Finding]] = {}
    for (suite, probe, variant), those in alike.items():
        differing = _differing([_terms(one) for one in those])
        for one in those:
            terms = _terms(one)
            more = [f"{name} {terms.get(name, 'none')}" for name in differing]
            named = ", ".join([*([variant] if variant else []), *more])
            own = one.seed if one.seed is not None else one.identity.get("network")
            made.setdefault((suite, probe, named, one.teacher, one.student, one.method), {})[own] = one
    return sorted((Group(*key, list(cells.values())) for key, cells in made.items()), key=_place)


def _terms(one: Finding) -> dict[str, str]:
    """What must be the same for two networks to be compared: settings, data, version, condition."""
    rests = {
        name: value if name == "condition" else value[:8] for name, value in one.identity.items() if name not in _OWN
    }
    said = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in one.settings.items()
    }
    return said | rests


def _differing(terms: list[dict[str, str]]) -> list[str]:
    """Names whose values are not all the same, in the order in which they stand."""
    names = dict.fromkeys(name for one in terms for name in one)
    return [name for name in names if len({one.get(name) for one in terms}) > 1]


def _place(group: Group) -> tuple[object, ...]:
    rank = {TEACHER: 0, "student": 1}.get(group.method, 2)
    return group.suite, group.probe, group.variant, rank == 0 and -1, group.teacher, group.student, rank, group.method
