"""What papers report: for the card of a method, and as a list."""

from __future__ import annotations

from kdbench import suites
from kdbench.suites import Standing

_EPOCHS = {"best_test": "best test", "last": "last", None: "not told"}
HEADS = ["pair", "data set", "top-1", "std", "n", "method", "here", "convention", "epoch", "recipe", "source"]


def elsewhere(name: str) -> list[str]:
    """What sources beside the suites' tables report of a method, alone and in combinations: a line for each source.

    >>> lines = elsewhere("ctkd")
    >>> lines[0].partition(":")[0]
    'CTKD README, AAAI 2023 (convention crd, epoch not told)'
    """
    parts = _parts(name)
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for dataset in dict.fromkeys(suites.load(suite).dataset for suite in suites.names()):
        for pair, ones in suites.reported(dataset).items():
            for one in ones:
                if one.spec and parts <= _parts(one.spec):
                    key = (one.number.source, one.method, one.spec, ", ".join(_facts(one)))
                    groups.setdefault(key, []).append((":".join(pair), _mean(one)))
    lines = []
    for (source, method, spec, facts), rows in sorted(groups.items()):
        named = f"{method}, here {spec}: " if spec != name else ""
        lines.append(f"{source} ({facts}): {named}{', '.join(map(' '.join, sorted(rows)))}")
    return lines


def listed(suite: str) -> tuple[list[list[str]], list[str]]:
    """A row for each published number, by data set and pair, the highest first; and notes.

    Args:
        suite: whose pairs; "auto" for all.

    Raises:
        ValueError: there is no such suite.

    >>> rows, notes = listed("crd")
    >>> [row[5] for row in rows if row[0] == "resnet56:resnet20"][:2]
    ['HSAKD*', 'NTCE-KD']
    """
    rows = suites.every_number(None if suite == "auto" else suites.load(suite))
    rows.sort(key=lambda row: (row.dataset, row.pair, -row.standing.number.mean, row.standing.method))
    made = [
        [
            ":".join(pair),
            dataset,
            f"{one.number.mean:.2f}",
            "" if one.number.std is None else f"{one.number.std:.2f}",
            "" if one.number.n is None else str(one.number.n),
            one.method,
            one.spec,
            one.convention,
            _EPOCHS[one.number.rule],
            one.departs,
            one.number.source,
        ]
        for dataset, pair, one in rows
    ]
    return made, [] if made else [f"no published number of a pair of suite {suite} is known here"]


def _facts(one: Standing) -> list[str]:
    number = one.number
    said = [
        one.convention and f"convention {one.convention}",
        "" if number.n is None else f"n = {number.n}",
        f"{_EPOCHS[number.rule]} epoch" if number.rule else "epoch not told",
    ]
    return [word for word in (*said, one.departs) if word]


def _mean(one: Standing) -> str:
    return f"{one.number.mean:.2f}" + ("" if one.number.std is None else f" +- {one.number.std:.2f}")


def _parts(spec: str) -> set[str]:
    """The methods of a combination, without their values."""
    return {part.partition("[")[0] for part in spec.split("+")}
