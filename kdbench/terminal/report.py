"""A report on the terminal; as many columns as fit, the others in a table below."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from kdbench.report.escape import terminal
from kdbench.report.items import Item, Row, Table
from kdbench.report.make import SuiteReport

_STYLES = {"teacher": "dim", "student": "dim", "modified": "italic"}
_SHOWN = ("leaderboard", "tuned", "mismatch", "averaged", "oracle", "reproduction", "cost", "failures")
_MOST_ROWS = 24


def print_report(report: SuiteReport, console: Console) -> None:
    """Print the tables, notes and files of one suite."""
    console.print()
    console.print(_text(report.title, console, "bold"))
    if report.banner:
        console.print(_text(report.banner, console, "bold yellow"))
    for table in report.tables:
        if table.name in _SHOWN:
            print_table(table, console)
    for note in report.notes:
        console.print(_text(f"note: {note}", console, "yellow"), soft_wrap=True)
    for problem in report.problems:
        console.print(_text(f"left out: {problem}", console, "red"), soft_wrap=True)
    print_files(report.files, console)


def print_table(table: Table, console: Console) -> None:
    """One table, in signs that the screen has."""
    _print_table(_for_screen(table, console.encoding), console)


def print_files(files: Sequence[Path], console: Console) -> None:
    """What was written, a line for each folder."""
    for line in _files(files):
        console.print(_text(line, console, "dim"), soft_wrap=True)


def _text(words: str, console: Console, style: str) -> Text:
    return Text(terminal(words, console.encoding), style=style)


def _for_screen(table: Table, encoding: str) -> Table:
    """The table in signs that the screen has."""
    return replace(
        table,
        title=terminal(table.title, encoding),
        header=["\n".join(terminal(line, encoding) for line in head.split("\n")) for head in table.header],
        rows=[
            Row(tuple(replace(item, text=terminal(item.text, encoding)) for item in row.items), row.kind)
            for row in table.rows
        ],
        notes=[terminal(note, encoding) for note in table.notes],
    )


def _print_table(table: Table, console: Console) -> None:
    cut: Literal["ellipsis", "crop"] = "ellipsis" if terminal("…", console.encoding) == "…" else "crop"
    rows = table.rows[:_MOST_ROWS] if table.first_pair is None else table.rows
    for number, columns in enumerate(_parts(table, rows, console.width)):
        title = (
            table.title if not number else f"{table.title}, more {'columns' if table.first_pair is None else 'pairs'}"
        )
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        words = table.name == "failures"
        for column in columns:
            left = column == 0 or words
            last = words and column == columns[-1]
            grid.add_column(
                Text(table.header[column]),
                justify="left" if left else "right",
                no_wrap=not last,
                overflow="fold" if last else cut,
                vertical="bottom" if not words else "top",
            )
        before = rows[0].kind
        for row in rows:
            if row.kind != before and row.kind == "modified":
                grid.add_section()
            before = row.kind
            grid.add_row(*(_cell(row.items[column]) for column in columns), style=_STYLES.get(row.kind))
        console.print()
        console.print(Text(title, style="bold"))
        console.print(grid, soft_wrap=False)
    if len(rows) < len(table.rows):
        console.print(Text(f"... and {len(table.rows) - len(rows)} more rows in the files", style="dim"))
    for note in table.notes:
        console.print(Text(note, style="dim"), soft_wrap=False)


def _parts(table: Table, rows: Sequence[Row], width: int) -> list[list[int]]:
    """Columns that fit side by side; the method stands first in each part."""
    if table.name == "failures":
        return [list(range(len(table.header)))]
    wide = [
        max(
            len(line)
            for text in (table.header[column], *(row.items[column].text for row in rows))
            for line in text.split("\n")
        )
        + 2  # the gap between two columns
        for column in range(len(table.header))
    ]
    # What a row is about stands in every part.
    probed = table.header.index("seeds") if table.name.startswith("probe-") and "seeds" in table.header else 0
    fixed = list(range(probed)) or ([0, 1] if table.name == "reproduction" else [0])
    columns = 5 if table.name == "reproduction" else len(table.header)  # the others are in the files
    parts: list[list[int]] = [list(fixed)]
    room = width - sum(wide[column] for column in fixed)
    left = room
    for column in range(len(fixed), columns):
        if wide[column] > left and len(parts[-1]) > len(fixed):
            parts.append(list(fixed))
            left = room
        parts[-1].append(column)
        left -= wide[column]
    return parts


def _cell(item: Item) -> Text:
    return Text(item.text, style="bold green" if item.best else "underline" if item.second else "")


def _files(files: Sequence[Path]) -> list[str]:
    """One line for each folder."""
    folders: dict[Path, list[str]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path.name)
    return [f"wrote {folder}{os.sep}: {', '.join(names)}" for folder, names in folders.items()]
