"""Which records may stand in one table: same protocol, same teacher, same settings within a cell.

What does not belong together is never averaged; the most complete set stays and a sentence names the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from kdbench.record import Record, settings_hash
from kdbench.report import teacherless
from kdbench.report.escape import plain
from kdbench.report.teacherless import Pair, Runs

# Set per method, per pair or per run; all other settings are the protocol of the whole table.
_OWN = {"seed", "method", "hyper", "teacher", "student", "assistant", "weights", "pretrained"}


@dataclass
class Selection:
    """The records of one suite that are compared with each other."""

    suite: str
    dataset: str
    convention: str
    epochs: int
    quick: bool
    limit_train: int | None
    runs: Runs  # finished
    refused: list[tuple[Pair, Record]]  # failed or unsupported, with the column that they stand in
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    teacherless: frozenset[str] = frozenset()  # methods whose runs stand in every column of their student

    @property
    def pairs(self) -> list[Pair]:
        """Every pair that any record is about."""
        return sorted({pair for _, pair in self.runs} | {pair for pair, _ in self.refused})

    @property
    def methods(self) -> list[str]:
        """Every method that any record is about, ``student`` first."""
        found = {method for method, _ in self.runs} | {one.method for _, one in self.refused}
        return sorted(found, key=lambda name: (name != "student", name))

    @property
    def finished(self) -> list[Record]:
        """All finished records; one that stands in two columns is there twice."""
        return [record for key in sorted(self.runs) for record in self.runs[key]]

    @property
    def looks(self) -> list[int]:
        """Every how many epochs students were evaluated; several where runs are compared by their last epoch."""
        return sorted({found for one in self.finished if (found := one.settings.recipe.get("eval_every")) is not None})

    def known(self) -> set[tuple[Pair, int]]:
        """(pair, seed) of every cell that any method has a record of: what a complete method would have."""
        finished = {(pair, one.seed) for (_, pair), cell in self.runs.items() for one in cell}
        return finished | {(pair, one.seed) for pair, one in self.refused}


def select(
    records: Sequence[Record],
    methods: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    rule: str = "last",
) -> Selection:
    """Choose what can be compared among the records of one suite.

    Args:
        records: all records of the suite, at least one.
        methods: rows to keep; None keeps all.
        pairs: columns to keep, ``teacher:student`` or globs of it; None keeps all.
        rule: the epoch that counts. How often students are evaluated changes none of them: by their last epoch runs
            are compared however often, by a best one only where it was found among as many.

    Raises:
        ValueError: none of these methods or pairs is there.
    """
    notes: list[str] = []
    suite = plain(records[0].suite, 80)
    asked = [one for one in records if pairs is None or _wanted(_pair(one), pairs)]
    if not asked:
        there = sorted({plain(one.pair, 80) for one in records})
        raise ValueError(f"suite {suite} has no runs on {', '.join(pairs or ())}; it has runs on {', '.join(there)}")
    everything = _one_protocol(records, asked, notes, rule)
    kept = [one for one in everything if methods is None or one.method in methods]
    if not kept:
        there = sorted({plain(one.method, 80) for one in everything})
        raise ValueError(f"suite {suite} has no runs of {', '.join(methods or ())}; it has {', '.join(there)}")
    alone = teacherless.methods(everything)
    done = [one for one in kept if one.status == "done"]
    done = [one for part in _split(done, _pair) for one in _one_teacher(part, alone, notes)]
    runs: Runs = {}
    for part in _split(done, lambda one: (one.method, _pair(one))):
        cell = _one_setting(part, notes)
        runs[cell[0].method, _pair(cell[0])] = cell
    runs, refused = teacherless.share(runs, [one for one in kept if one.status != "done"], alone)
    runs = {key: cell for key, cell in runs.items() if pairs is None or _wanted(key[1], pairs)}
    over = {(method, pair, one.seed) for (method, pair), cell in runs.items() for one in cell}
    refused = [
        (pair, one)
        for pair, one in refused
        if (one.method, pair, one.seed) not in over and (pairs is None or _wanted(pair, pairs))
    ]
    refused.sort(key=lambda item: (item[1].method, item[0], item[1].seed, item[1].settings_hash))
    first = (done or kept)[0]
    versions = sorted({version(one) for cell in runs.values() for one in cell})
    if len(versions) > 1:
        notes.append(f"the runs were made with different versions of the code: {_some(versions)}")
    made = Selection(
        first.suite,
        first.dataset,
        first.convention,
        first.epochs,
        first.quick,
        first.settings.limit_train,
        runs,
        refused,
        notes,
        alone,
    )
    if len(made.looks) > 1:
        every = " and every ".join(map(str, made.looks))
        notes.append(
            f"runs were evaluated every {every} epochs, which changes no student: their best epochs are not compared"
        )
    return made


def protocol(record: Record) -> dict[str, Any]:
    """What all rows and columns of a table must share, nested keys joined with a dot.

    All settings but those of a method, a pair or a run; the length of the run, the data set by its fingerprint
    (where the record has one) and the convention. Records of different protocols never stand in one table.
    """
    settings = {name: value for name, value in record.settings.facts().items() if name not in _OWN}
    settings |= {
        "epochs": record.epochs,
        "quick": record.quick,
        "dataset": record.dataset,
        "convention": record.convention,
    }
    flat = _flat(settings)
    flat.pop("recipe.lr", None)  # light students have another rate: see `side`
    if record.data:
        flat["data"] = str(record.data.get("fingerprint") or settings_hash(record.data))
    return flat


def side(record: Record) -> dict[str, Any]:
    """What all runs on one pair must share besides the protocol: the teacher as it saw, and how the student began."""
    recipe = record.settings.recipe
    return {
        "teacher_sha256": record.teacher_sha256,
        "teacher_normalisation": record.teacher_normalisation or (recipe.get("mean"), recipe.get("std")),
        "recipe.lr": teacherless.rate(record),
    } | ({"pretrained": begun} if (begun := record.settings.pretrained) else {})


def _began(record: Record) -> tuple[str, str]:
    """A student's learning rate, and its first weights or, of a network of the user's, its file."""
    return teacherless.rate(record), record.settings.pretrained


def version(record: Record) -> str:
    """``0.1.0 0123456789ab``: the code that made a record."""
    return " ".join(plain(record.code[part], 40) for part in ("kdbench", "git") if part in record.code)


def _wanted(pair: Pair, patterns: Sequence[str]) -> bool:
    return any(pattern == "all" or fnmatchcase(":".join(pair), pattern) for pattern in patterns)


def _one_protocol(records: Sequence[Record], asked: Sequence[Record], notes: list[str], rule: str) -> list[Record]:
    """Records of the most complete protocol among those asked for; the others are named."""
    free = {"recipe.eval_every"} if rule == "last" else set()
    shared = {id(one): {name: it for name, it in protocol(one).items() if name not in free} for one in records}
    keys = {place: settings_hash(found) for place, found in shared.items()}
    groups = _split(asked, lambda one: keys[id(one)])
    finished = {id(group): sum(one.status == "done" for one in group) for group in groups}
    groups.sort(
        key=lambda group: (
            not finished[id(group)],
            group[0].quick,
            -finished[id(group)],
            -group[0].epochs,
            keys[id(group[0])],
        )
    )
    chosen = groups[0]
    for other in groups[1:]:
        why = _difference(shared[id(other[0])], shared[id(chosen[0])])
        notes.append(
            f"left out {_count(other)} of another protocol ({why}):"
            f" {_names(other)}; rows of one table share all settings but the method's own, and the data"
        )
    return [one for one in records if keys[id(one)] == keys[id(chosen[0])]]


def _one_teacher(records: list[Record], alone: frozenset[str], notes: list[str]) -> list[Record]:
    """Runs on a pair with one teacher and one beginning of the student; without a teacher, with the latter alone."""
    taught = [one for one in records if one.method not in alone]
    groups = _split(taught or records, lambda one: settings_hash(side(one)) if taught else _began(one))
    chosen, others = _most_complete(groups)
    if taught:
        began, sha256 = _began(chosen[0]), chosen[0].teacher_sha256
        free = _split((one for one in records if one.method in alone), _began)
        chosen = chosen + [
            teacherless.without(one, sha256) for part in free if _began(part[0]) == began for one in part
        ]
        others = others + [part for part in free if _began(part[0]) != began]
    for other in others:
        given, kept = side(other[0]), side(chosen[0])
        why = "another learning rate"
        if other[0].method not in alone and given["teacher_sha256"] != kept["teacher_sha256"]:
            why = f"another teacher (sha256 {plain(given['teacher_sha256'][:8]) or 'unknown'})"
        elif given.get("pretrained") != kept.get("pretrained"):
            named = plain(given.get("pretrained", "")[:8]) or "at random"
            why = f"a student that began otherwise, or a network of another file ({named})"
        elif other[0].method not in alone and given["recipe.lr"] == kept["recipe.lr"]:
            why = "another normalisation of the teacher's images"
        notes.append(f"left out {_count(other)} on {plain(chosen[0].pair, 80)} with {why}: {_names(other)}")
    return chosen


def _one_setting(records: list[Record], notes: list[str]) -> list[Record]:
    """Runs of a method on a pair that differ by the seed alone, one for each seed."""
    own = {id(one): one.settings.facts() | {"seed": None, "plugin": one.plugin_sha256} for one in records}
    chosen, others = _most_complete(_split(records, lambda one: settings_hash(own[id(one)])))
    where = f"{plain(chosen[0].method, 60)} on {plain(chosen[0].pair, 80)}"
    for other in others:
        what = _difference(_flat(own[id(other[0])]), _flat(own[id(chosen[0])]))
        notes.append(f"left out {_count(other)} of {where} with other settings ({what})")
    once: dict[int, Record] = {}
    for one in sorted(chosen, key=lambda one: (one.seed, one.finished, one.checksum)):
        if one.seed in once:
            notes.append(f"seed {one.seed} of {where} is there twice; the later record is used")
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
    return _some(sorted({plain(one.method, 60) for one in records}))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _difference(given: dict[str, Any], kept: dict[str, Any]) -> str:
    """``epochs 2, not 240``."""
    parts = [
        f"{plain(name, 60)} {_value(given, name)}, not {_value(kept, name)}"
        for name in sorted(given.keys() | kept.keys())
        if given.get(name) != kept.get(name) and name != "quick"
    ] or ["quick"]
    return "; ".join(parts[:4]) + ("; ..." if len(parts) > 4 else "")


def _value(settings: dict[str, Any], name: str) -> str:
    if name in settings:
        return plain(settings[name], 40)
    return (
        "the default" if name.startswith("recipe.") else "unknown"
    )  # a recipe's later words are kept where they are set


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= {f"{name}.{inner}": found for inner, found in _flat(value).items()}
        else:
            flat[name] = value
    return flat
