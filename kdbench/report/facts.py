"""What a table rests on, in words: run length, seeds, hardware, versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdbench.report.board import Board
from kdbench.report.escape import plain
from kdbench.report.resample import RESAMPLES
from kdbench.report.select import Selection, version
from kdbench.utils.wording import count

#: The epoch that counts, by the rule's name.
RULE_WORDS = {
    "last": "last epoch",
    "val": "epoch that is best on the validation split",
    "oracle": "ORACLE: epoch that is best on the test set",
}
MOST_FACTS, MOST_VALUES = 60, 12
RESAMPLED = f"{RESAMPLES:,} bootstrap draws of the seeds of each student"


def title(selection: Selection) -> str:
    """``semckd: cifar100, 240 epochs``."""
    return f"{plain(selection.suite, 80)}: {plain(selection.dataset, 80)}, {_epochs(selection.epochs)}"


def banner(selection: Selection) -> str:
    """The warning over everything that comes from quick runs; empty for full ones."""
    if not selection.quick:
        return ""
    images = f" on {selection.limit_train} training images" if selection.limit_train is not None else ""
    return (
        f"quick run: {_epochs(selection.epochs)}{images}, less than the recipe of suite {plain(selection.suite, 80)};"
        " not comparable with full runs or published numbers"
    )


def footer(board: Board) -> str:
    """One line under every figure."""
    quick = "QUICK RUN, not comparable" if board.selection.quick else ""
    parts = [
        f"accuracy of the {RULE_WORDS[board.rule]}",
        f"{seeds(board)}, {count(board.independent, 'independent run')}",
        _epochs(board.selection.epochs),
        quick,
        f"convention {plain(board.selection.convention, 40)}",
        *_machine(board),
    ]
    return " · ".join(part for part in parts if part)


def seeds(board: Board) -> str:
    """``n = 3 seeds``, ``n = 1 to 3 seeds``."""
    low, high = board.seeds
    return (f"n = {low}" if low == high else f"n = {low} to {high}") + f" seed{'s' * (high != 1)}"


def environment(board: Board) -> list[tuple[str, str]]:
    """(name, values) of all that the runs were made with; several values are all named."""
    records = board.selection.finished
    found: dict[str, list[str]] = {}
    for record in records:
        for name, value in ({f"code {key}": value for key, value in record.code.items()} | record.environment).items():
            text = plain(value, 200)
            if text not in found.setdefault(name, []):
                found[name].append(text)
    rows = [(plain(name, 60), _few(sorted(values))) for name, values in sorted(found.items())[:MOST_FACTS]]
    teachers = {f"{plain(one.teacher, 60)} {plain(one.teacher_sha256[:16])}" for one in records if one.teacher_sha256}
    if teachers:
        rows.append(("teachers (sha256)", ", ".join(sorted(teachers))))
    if records:
        days = sorted({plain(record.finished[:10]) for record in records})
        rows.append(("finished", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"))
    return rows


def _machine(board: Board) -> list[str]:
    records = board.selection.finished
    devices = _distinct(one.environment.get("gpu") or one.environment.get("cpu") for one in records)
    parts = [", ".join(devices[:2]) + (" and others" if len(devices) > 2 else "")] if devices else []
    torch = _distinct(one.environment.get("torch") for one in records)
    if torch:
        parts.append("torch " + ", ".join(torch))
    code = _distinct(version(one) for one in records)
    if code:
        parts.append("kdbench " + (", ".join(code) if len(code) < 3 else f"{code[0]} and {len(code) - 1} others"))
    return parts


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({plain(value, 60) for value in values if value})


def _few(values: list[str]) -> str:
    return ", ".join(values[:MOST_VALUES]) + (f" and {len(values) - MOST_VALUES} more" * (len(values) > MOST_VALUES))


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"
