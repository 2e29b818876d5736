"""What a table rests on, in words: run length, seeds, hardware, versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdbench.report.board import Board
from kdbench.report.select import Selection


def title(selection: Selection) -> str:
    """``semckd: cifar100, 240 epochs``."""
    return f"{selection.suite}: {selection.dataset}, {_epochs(selection.epochs)}"


def banner(selection: Selection) -> str:
    """The warning over everything that comes from quick runs; empty for full ones."""
    if not selection.quick:
        return ""
    images = f" on {selection.limit_train} training images" if selection.limit_train is not None else ""
    return (
        f"quick run: {_epochs(selection.epochs)}{images}, less than the recipe of suite {selection.suite};"
        " not comparable with full runs or published numbers"
    )


def footer(board: Board) -> str:
    """One line under every figure."""
    low, high = board.seeds
    seeds = f"n = {low}" if low == high else f"n = {low} to {high}"
    quick = "QUICK RUN, not comparable" if board.selection.quick else ""
    parts = [
        "accuracy of the last epoch",
        f"{seeds} seed{'s' * (high != 1)}",
        _epochs(board.selection.epochs),
        quick,
        f"convention {board.selection.convention}",
        *_machine(board),
    ]
    return " · ".join(part for part in parts if part)


def environment(board: Board) -> list[tuple[str, str]]:
    """(name, values) of all that the runs were made with; several values are all named."""
    records = board.selection.finished
    found: dict[str, list[str]] = {}
    for record in records:
        for name, value in ({f"code {key}": value for key, value in record.code.items()} | record.environment).items():
            text = str(value)
            if text not in found.setdefault(name, []):
                found[name].append(text)
    rows = [(name, ", ".join(sorted(values))) for name, values in sorted(found.items())]
    teachers = {f"{one.teacher} {one.teacher_sha256[:16]}" for one in records if one.teacher_sha256}
    if teachers:
        rows.append(("teachers (sha256)", ", ".join(sorted(teachers))))
    if records:
        days = sorted({record.finished[:10] for record in records})
        rows.append(("finished", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"))
    return rows


def _machine(board: Board) -> list[str]:
    records = board.selection.finished
    devices = _distinct(one.environment.get("gpu") or one.environment.get("cpu") for one in records)
    parts = [", ".join(devices[:2]) + (" and others" if len(devices) > 2 else "")] if devices else []
    torch = _distinct(one.environment.get("torch") for one in records)
    if torch:
        parts.append("torch " + ", ".join(torch))
    code = _distinct(" ".join(str(one.code[key]) for key in ("kdbench", "git") if one.code.get(key)) for one in records)
    if code:
        parts.append("kdbench " + (", ".join(code) if len(code) < 3 else f"{code[0]} and {len(code) - 1} others"))
    return parts


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values if value})


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"
