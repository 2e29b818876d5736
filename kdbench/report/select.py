"""Which records may stand in one table: same protocol, same teacher, same settings within a cell.

What does not belong together is never averaged; the most complete set stays and a sentence names the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.record import Record, settings_hash

Pair = tuple[str, str]  # teacher, student

# Set per method, per pair or per run; all other settings are the protocol of the whole table.
_OWN = {"seed", "method", "hyper", "teacher", "student", "assistant"}


@dataclass
class Selection:
    """The records of one suite that are compared with each other."""

    suite: str
    dataset: str
    convention: str
    epochs: int
    quick: bool
    limit_train: int | None
    runs: dict[tuple[str, Pair], list[Record]]  # finished, by method and pair, in the order of the seeds
    refused: list[Record]  # failed or unsupported
    notes: list[str] = field(default_factory=list)  # what was left out, and why

    @property
    def pairs(self) -> list[Pair]:
        """Every pair that any record is about."""
        refused = {(one.teacher, one.student) for one in self.refused}
        return sorted({pair for _, pair in self.runs} | refused)

    @property
    def methods(self) -> list[str]:
        """Every method that any record is about, ``student`` first."""
        found = {method for method, _ in self.runs} | {one.method for one in self.refused}
        return sorted(found, key=lambda name: (name != "student", name))

    @property
    def finished(self) -> list[Record]:
        """All finished records."""
        return [record for key in sorted(self.runs) for record in self.runs[key]]

    def known(self) -> set[tuple[Pair, int]]:
        """(pair, seed) of every cell that any method has a record of: what a complete method would have."""
        everything = self.finished + self.refused
        return {((one.teacher, one.student), one.seed) for one in everything}


def select(records: Sequence[Record], methods: Sequence[str] | None = None) -> Selection:
    """Choose what can be compared among the records of one suite.

    Args:
        records: all records of the suite, at least one.
        methods: rows to keep; None keeps all.

    Raises:
        ValueError: none of these methods is there.

    """
    notes: list[str] = []
    everything = records = _one_protocol(records, notes)
    if methods is not None:
        records = [record for record in records if record.method in methods]
        if not records:
            there = sorted({record.method for record in everything})
            suite = everything[0].suite
            raise ValueError(f"suite {suite} has no runs of {', '.join(methods)}; it has {', '.join(there)}")
    done = [record for record in records if record.status == "done"]
    refused = [record for record in records if record.status != "done"]
    done = [record for part in _split(done, _pair) for record in _one_teacher(part, notes)]
    runs: dict[tuple[str, Pair], list[Record]] = {}
    for part in _split(done, lambda record: (record.method, _pair(record))):
        cell = _one_setting(part, notes)
        runs[cell[0].method, _pair(cell[0])] = cell
    over = {(method, pair, one.seed) for (method, pair), cell in runs.items() for one in cell}
    refused = [one for one in refused if (one.method, _pair(one), one.seed) not in over]
    refused.sort(key=lambda one: (one.method, _pair(one), one.seed, one.settings_hash))
    first = (done or refused)[0]
    versions = sorted({_version(record) for cell in runs.values() for record in cell})
    if len(versions) > 1:
        notes.append(f"the runs were made with different versions of the code: {', '.join(versions)}")
    return Selection(
        first.suite,
        first.dataset,
        first.convention,
        first.epochs,
        first.quick,
        first.settings.limit_train,
        runs,
        refused,
        notes,
    )


def protocol(record: Record) -> dict[str, Any]:
    """Settings that all rows and columns of a table must share, nested keys joined with a dot."""
    settings = {name: value for name, value in record.settings.facts().items() if name not in _OWN}
    settings |= {
        "epochs": record.epochs,
        "quick": record.quick,
        "dataset": record.dataset,
        "convention": record.convention,
    }
    flat = _flat(settings)
    flat.pop("recipe.lr", None)  # light students have another rate
    return flat


def _one_protocol(records: Sequence[Record], notes: list[str]) -> list[Record]:
    groups = _split(records, lambda record: settings_hash(protocol(record)))
    finished = {id(group): sum(one.status == "done" for one in group) for group in groups}
    groups.sort(
        key=lambda group: (
            not finished[id(group)],
            group[0].quick,
            -finished[id(group)],
            -group[0].epochs,
            settings_hash(protocol(group[0])),
        )
    )
    chosen = groups[0]
    for other in groups[1:]:
        notes.append(
            f"left out {_count(other)} with other settings ({_difference(protocol(other[0]), protocol(chosen[0]))}):"
            f" {_names(other)}; rows of one table share all settings but the method's own"
        )
    return chosen


def _one_teacher(records: list[Record], notes: list[str]) -> list[Record]:
    """Runs on a pair with one teacher and one learning rate."""
    groups = _split(records, lambda one: (one.teacher_sha256, str(one.settings.recipe.get("lr"))))
    chosen, others = _most_complete(groups)
    for other in others:
        sha256 = other[0].teacher_sha256
        same = sha256 == chosen[0].teacher_sha256
        why = "another learning rate" if same else f"another teacher (sha256 {sha256[:8] or 'unknown'})"
        notes.append(f"left out {_count(other)} on {chosen[0].pair} with {why}: {_names(other)}")
    return chosen


def _one_setting(records: list[Record], notes: list[str]) -> list[Record]:
    """Runs of a method on a pair that differ by the seed alone, one for each seed."""
    own = {id(one): {name: value for name, value in one.settings.facts().items() if name != "seed"} for one in records}
    chosen, others = _most_complete(_split(records, lambda one: settings_hash(own[id(one)])))
    for other in others:
        what = _difference(_flat(own[id(other[0])]), _flat(own[id(chosen[0])]))
        notes.append(f"left out {_count(other)} of {chosen[0].method} on {chosen[0].pair} with other settings ({what})")
    once: dict[int, Record] = {}
    for one in sorted(chosen, key=lambda one: (one.seed, one.finished, one.checksum)):
        if one.seed in once:
            notes.append(f"seed {one.seed} of {one.method} on {one.pair} is there twice; the later record is used")
        once[one.seed] = one
    return list(once.values())


def _most_complete(groups: list[list[Record]]) -> tuple[list[Record], list[list[Record]]]:
    """The group with most runs, the later one of equals; and the others."""
    ordered = sorted(groups, key=lambda group: (len(group), max(one.finished for one in group), group[0].settings_hash))
    return ordered[-1], ordered[:-1]


def _split(records: Iterable[Record], key: Callable[[Record], Hashable]) -> list[list[Record]]:
    groups: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return list(groups.values())


def _pair(record: Record) -> Pair:
    return record.teacher, record.student


def _count(records: Sequence[Record]) -> str:
    return f"{len(records)} run{'s' * (len(records) != 1)}"


def _names(records: Sequence[Record]) -> str:
    names = sorted({one.method for one in records})
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _difference(given: dict[str, Any], kept: dict[str, Any]) -> str:
    """``epochs 2, not 240``."""
    parts = [
        f"{name} {given.get(name)}, not {kept.get(name)}"
        for name in sorted(given.keys() | kept.keys())
        if given.get(name) != kept.get(name) and name != "quick"
    ] or ["quick"]
    return "; ".join(parts[:4]) + ("; ..." if len(parts) > 4 else "")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": found for inner, found in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _version(record: Record) -> str:
    return " ".join(str(record.code[part]) for part in ("kdbench", "git") if part in record.code)
