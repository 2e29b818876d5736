"""Methods that need no teacher: one run per student and seed, shown in every column of that student.

The plain student, label smoothing and the like give the same numbers whichever teacher stands in the pair's name.
Trained or stored twice they are still one run: a table shows the number in each column, the statistics count it once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from kdbench.record import Record

_NO_TEACHER = ("", "-", "none")  # a pair's teacher, where a method without one was run beside none


def methods(records: Iterable[Record]) -> frozenset[str]:
    """Methods that need no teacher: their records say so, or the same weights came out beside two teachers."""
    said: dict[str, bool] = {}
    beside: dict[tuple[str, str, int, str], set[tuple[str, str]]] = defaultdict(set)
    for one in records:
        needs = getattr(one, "needs_teacher", None)
        if needs is not None:
            said[one.method] = said.get(one.method, False) or bool(needs)
        elif one.status == "done" and one.weights_sha256:
            key = (one.method, one.student, one.seed, one.weights_sha256)
            beside[key].add((one.teacher, one.teacher_sha256))
    seen = {key[0] for key, teachers in beside.items() if len(teachers) > 1}
    return frozenset(seen - said.keys()) | {method for method, needs in said.items() if not needs}


def rate(record: Record) -> str:
    """The learning rate as the settings have it."""
    recipe = record.settings.get("recipe", {})
    return str(recipe.get("lr")) if isinstance(recipe, dict) else ""


def beside(one: Record, teacher: str, sha256: str) -> Record:
    """A run without a teacher as it stands beside one; what was measured with another teacher is taken out."""
    if (one.teacher, one.teacher_sha256) == (teacher, sha256):
        return one
    return one.model_copy(update={"teacher": teacher, "teacher_sha256": "", "teacher_top1": None, "agreement": None})


def share(
    runs: dict[tuple[str, tuple[str, str]], list[Record]], refused: Sequence[Record], alone: frozenset[str]
) -> dict[tuple[str, tuple[str, str]], list[Record]]:
    """The runs with those of methods without a teacher in every column of their student, own ones first.

    Args:
        runs: method and (teacher, student) -> runs in the order of the seeds.
        refused: failed and unsupported records; they make columns, too.
        alone: methods that need no teacher.
    """
    columns: dict[str, set[tuple[str, str]]] = defaultdict(set)
    rates: dict[tuple[str, str], str] = {}
    for (_, pair), cell in runs.items():
        columns[pair[1]].add(pair)
        rates.setdefault(pair, rate(cell[0]))
    for one in refused:
        columns[one.student].add((one.teacher, one.student))
    shared: dict[tuple[str, tuple[str, str]], list[Record]] = {}
    for student, pairs in columns.items():
        named = {pair for pair in pairs if pair[0] not in _NO_TEACHER}
        columns[student] = named or pairs
    for key, cell in runs.items():
        if key[1] in columns[key[1][1]]:
            shared[key] = cell
    for method in alone:
        for student, pairs in columns.items():
            found: dict[int, Record] = {}
            for (name, pair), cell in sorted(runs.items(), key=_first_two):
                if name == method and pair[1] == student:
                    found |= {one.seed: one for one in cell if one.seed not in found}
            for pair in pairs:
                own = {one.seed: one for one in runs.get((method, pair), [])}
                wanted = rates.get(pair)
                for seed, one in found.items():
                    if seed not in own and wanted in (None, rate(one)):
                        own[seed] = beside(one, pair[0], "")
                if own:
                    shared[method, pair] = [own[seed] for seed in sorted(own)]
    return shared


def _first_two(item: tuple[tuple[str, tuple[str, str]], Any]) -> tuple[str, tuple[str, str]]:
    return item[0]
