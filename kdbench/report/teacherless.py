"""Methods that need no teacher: one run per student and seed, shown in every column of that student.

The plain student, label smoothing and the like give the same numbers whichever teacher stands in the pair's name.
Trained or stored twice they are still one run: a table shows the number in each column, the statistics count it once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from kdbench.record import Record

Pair = tuple[str, str]  # teacher, student
Runs = dict[tuple[str, Pair], list[Record]]  # of a method on a pair, in the order of the seeds

_NO_TEACHER = ("", "-", "none")  # a pair's teacher, where a method without one was run beside none


def methods(records: Iterable[Record]) -> frozenset[str]:
    """Methods that need no teacher.

    Their records say so (``needs_teacher``, or no teacher is named), or the same weights came out beside two teachers.
    """
    said: dict[str, bool] = {}
    beside: dict[tuple[str, str, int, str], set[tuple[str, str]]] = defaultdict(set)
    for one in records:
        needs = getattr(one, "needs_teacher", None)
        if needs is None and one.teacher in _NO_TEACHER:
            needs = False
        if needs is not None:
            said[one.method] = said.get(one.method, False) or bool(needs)
        elif one.status == "done" and one.weights_sha256:
            key = (one.method, one.student, one.seed, one.weights_sha256)
            beside[key].add((one.teacher, one.teacher_sha256))
    seen = {key[0] for key, teachers in beside.items() if len(teachers) > 1}
    return frozenset(seen - said.keys()) | {method for method, needs in said.items() if not needs}


def rate(record: Record) -> str:
    """The learning rate as the settings have it."""
    return str(record.settings.recipe.get("lr"))


def without(one: Record, sha256: str) -> Record:
    """A run as it stands beside a teacher of this sha256 that took no part in it.

    What was measured with another teacher is taken out.
    """
    if one.teacher_sha256 == sha256:
        return one
    return one.model_copy(update={"teacher_sha256": "", "teacher_top1": None, "agreement": None})


def share(runs: Runs, refused: Sequence[Record], alone: frozenset[str]) -> tuple[Runs, list[tuple[Pair, Record]]]:
    """The runs and refusals by column, those of methods without a teacher in every column of their student.

    Args:
        runs: finished ones; a column's own go before those of other columns.
        refused: failed and unsupported records; they make columns, too.
        alone: methods that need no teacher.
    """
    columns: dict[str, set[Pair]] = defaultdict(set)
    rates: dict[Pair, str] = {}
    for (_, pair), cell in runs.items():
        columns[pair[1]].add(pair)
        rates.setdefault(pair, rate(cell[0]))
    for one in refused:
        columns[one.student].add((one.teacher, one.student))
    for student, pairs in columns.items():
        columns[student] = {pair for pair in pairs if pair[0] not in _NO_TEACHER} or pairs
    shared = {key: cell for key, cell in runs.items() if key[1] in columns[key[1][1]]}
    found: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for method, pair in sorted(runs):
        if method in alone:
            for one in runs[method, pair]:
                found[method, pair[1]].setdefault(one.seed, one)
    for (method, student), by_seed in found.items():
        for pair in columns[student]:
            own = {one.seed: one for one in runs.get((method, pair), [])}
            for seed, one in by_seed.items():
                if seed not in own and rates.get(pair) in (None, rate(one)):
                    own[seed] = without(one, "?")
            if own:
                shared[method, pair] = [own[seed] for seed in sorted(own)]
    placed = [
        (pair, one)
        for one in refused
        for pair in (columns[one.student] if one.method in alone else {(one.teacher, one.student)})
    ]
    return shared, placed
