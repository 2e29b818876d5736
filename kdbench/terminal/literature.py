"""What papers report: for the card of a method, and as a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kdbench import suites
from kdbench.suites import Standing

_EPOCHS = {"best_test": "best test epoch", "last": "last epoch", None: "epoch not told"}
_LOSSES = {"crd": "CE + L", "semckd": "CE + KD + L"}
HEADS = ["pair", "top-1", "std", "n", "method", "here", "loss", "epoch", "recipe", "source"]


class _Row(NamedTuple):
    pair: tuple[str, str]
    one: Standing
    dataset: str


def elsewhere(name: str) -> list[str]:
    """What sources beside the suites' tables report of a method, alone and in combinations: a line for each source.

    >>> lines = elsewhere("ctkd")
    >>> lines[0].partition(":")[0]
    'CTKD README, AAAI 2023 (epoch not told)'
    """
    parts = _parts(name)
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in _reported():
        if row.one.spec and parts <= _parts(row.one.spec):
            one, number = row.one, row.one.number
            groups.setdefault((number.source, one.method, one.spec, ", ".join(_facts(one))), []).append(row)
    lines = []
    for (source, method, spec, facts), rows in sorted(groups.items()):
        named = f"{method}, here {spec}: " if spec != name else ""
        cells = (f"{':'.join(row.pair)} {_mean(row.one)}" for row in sorted(rows))
        lines.append(f"{source} ({facts}): {named}{', '.join(cells)}")
    return lines


def listed(suite: str) -> tuple[list[list[str]], list[str]]:
    """A row for each published number, by pair, the highest first; and notes.

    Args:
        suite: whose pairs; "auto" for all.

    Raises:
        ValueError: there is no such suite.

    >>> rows, notes = listed("crd")
    >>> [row[4] for row in rows if row[0] == "resnet56:resnet20"][:2]
    ['HSAKD*', 'NTCE-KD']
    """
    one = None if suite == "auto" else suites.load(suite)
    rows = [row for row in (*_held(), *_reported()) if row.one.spec not in ("student", "teacher")]
    if one is not None:
        rows = [row for row in rows if row.pair in one.pairs and row.dataset == one.dataset]
    rows.sort(key=lambda row: (row.pair, -row.one.number.mean, row.one.method))
    made = [
        [
            ":".join(pair),
            f"{one.number.mean:.2f}",
            "" if one.number.std is None else f"{one.number.std:.2f}",
            "" if one.number.n is None else str(one.number.n),
            one.method,
            one.spec,
            _LOSSES.get(one.convention, ""),
            _EPOCHS[one.number.rule],
            one.departs,
            one.number.source,
        ]
        for pair, one, _ in rows
    ]
    return made, [] if made else [f"no published number of a pair of suite {suite} is known here"]


def _reported() -> Iterator[_Row]:
    for dataset in sorted({one.dataset for one in _suites()}):
        for pair, ones in suites.reported(dataset).items():
            yield from (_Row(pair, one, dataset) for one in ones)


def _held() -> Iterator[_Row]:
    """The tables of the suites."""
    for suite in _suites():
        for (teacher, student, method), number in suites.published(suite).items():
            yield _Row((teacher, student), Standing(method, number, "", method, suite.convention), suite.dataset)


def _suites() -> Iterable[suites.Suite]:
    return map(suites.load, suites.names())


def _facts(one: Standing) -> list[str]:
    number = one.number
    said = [_LOSSES.get(one.convention, ""), "" if number.n is None else f"n = {number.n}", _EPOCHS[number.rule]]
    return [word for word in (*said, one.departs) if word]


def _mean(one: Standing) -> str:
    return f"{one.number.mean:.2f}" + ("" if one.number.std is None else f" +- {one.number.std:.2f}")


def _parts(spec: str) -> set[str]:
    """The methods of a combination, without their values."""
    return {part.partition("[")[0] for part in spec.split("+")}
