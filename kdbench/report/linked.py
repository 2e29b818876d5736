"""Where the records behind a number lie, for pages that stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kdbench.record import Record
from kdbench.report.board import Board
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table, one_line

#: A record's address from a suite's page; empty where its file is not beside the page.
Addresses = Callable[[Record], str]

_NUMBERS = {"top1_last": "last epoch", "top1_best_test": "best test epoch", "nll": "NLL", "ece": "ECE"}


def runs(board: Board) -> Table:
    """Every run of a suite with the numbers of its record, to which each links; the failed and the refused, too.

    >>> from kdbench.record import Settings
    >>> from kdbench.report.board import build
    >>> from kdbench.report.select import select
    >>> words = {"suite": "digits", "dataset": "digits", "convention": "semckd", "teacher": "resnet20", "method": "kd"}
    >>> settings = Settings(**words, student="resnet8", hyper={}, seed=0, epochs=30, recipe={})
    >>> facts = {"provenance": "port", "modified_student": False, "quick": False, "finished": "2026-01-01"}
    >>> facts |= {"code": {}, "environment": {}, "top1_last": 97.5, "top1_best_test": 98.0}
    >>> table = runs(build(select([Record(status="done", method="kd", settings=settings, **facts)])))
    >>> [item.text for item in table.rows[0].items][:5]
    ['kd', 'resnet20 → resnet8', '0', '97.50', '98.00']
    """
    once: dict[tuple[str, int, str, str], Record] = {}
    found = [one for line in board.everything for cell in line.cells.values() for one in cell.runs]
    for one in [*found, *(one for _, one in board.selection.refused)]:
        once.setdefault((one.method, one.seed, one.settings_hash, one.checksum), one)
    first: set[str] = set()
    rows = []
    for one in sorted(once.values(), key=lambda one: (one.method.lower(), one.pair, one.seed)):
        name = "" if one.method.lower() in first else anchor(one.method)
        first.add(one.method.lower())
        rows.append(_row(one, name))
    header = ["method", "pair", "seed", *_NUMBERS.values(), "agreement", "settings", "finished", "record"]
    notes = ["One row for each run. Numbers lead to the sealed record, which holds the whole curve and all settings."]
    return Table("runs", "Runs", header, rows, notes)


def anchor(method: str) -> str:
    """The name of the first row of a method in the table of runs; letters, digits and hyphens alone.

    >>> anchor("semckd[beta=200]")
    'runs-semckd-5bbeta-3d200-5d'
    """
    return "runs-" + "".join(
        sign if sign.isascii() and sign.isalnum() else f"-{ord(sign):x}" for sign in method.lower()
    )


def methods(board: Board) -> set[str]:
    """Anchors that there are in the table of runs."""
    known = [line.label for line in board.everything if line.runs]
    return {anchor(name) for name in [*known, *(one.method for _, one in board.selection.refused)]}


def _row(one: Record, name: str) -> Row:
    def item(value: float | None) -> Item:
        return Item(f"{value:.2f}", value, records=(one,)) if value is not None else Item(NONE)

    numbers: Iterable[Item] = [item(getattr(one, field)) for field in (*_NUMBERS, "agreement")]
    items = (
        Item(plain(one.method, 100), one.method.lower()),
        Item(one_line((one.teacher, one.student))),
        Item(str(one.seed), one.seed, records=(one,)),
        *numbers,
        Item(plain(one.settings_hash, 16)),
        Item(plain(one.finished[:10]), plain(one.finished)),
        Item("record" if one.status == "done" else plain(one.status), records=(one,), title=plain(one.reason, 400)),
    )
    return Row(items, anchor=name)
