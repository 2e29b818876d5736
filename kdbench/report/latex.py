r"""Tables for a paper: booktabs, footnotesize, no wider than its text and no taller than its page.

Each table is split by groups of pairs and by rows until it fits the text of a two-column article or of a page of
one column; nothing is scaled. What explains the numbers at length stands in comments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kdbench import record
from kdbench.report import facts
from kdbench.report.board import Board
from kdbench.report.escape import by_line, latex, latex_comment, plain, printed
from kdbench.report.items import CLASS_TITLES, Item, Row, Table

WIDE, NARROW = 395.0, 200.0  # points that every usual class has for a table over the page, and in one column
MOST_ROWS = 42
MOST_WAITING = 16  # tables
GAP = 3.0  # points at each side of a column
_WIDEST = 150.0  # points of a name

# Widths at footnotesize (8 points) in Computer Modern, rounded up.
_WIDTHS = {**dict.fromkeys("ijl.,:;'|![]() ", 2.8), **dict.fromkeys("mwMW@%&", 8.6), **dict.fromkeys("tfrs-", 3.8)}


def document(board: Board, tables: Sequence[Table], notes: Sequence[str]) -> str:
    r"""All tables that are for print; needs ``\usepackage{booktabs}`` and nothing else."""
    banner = facts.banner(board.selection)
    head = [facts.title(board.selection), facts.footer(board), r"needs \usepackage{booktabs}", banner]
    lines = [latex_comment(one) for one in (*head, *notes) if one]
    name = record.safe_name(board.selection.suite)[:40].replace("_", "-")
    for table in tables:
        if table.caption and table.rows:
            lines += ["", *(latex_comment(note) for note in table.notes)]
            lines += _floats(table, board, name, "QUICK RUN, not comparable. " * bool(banner))
    return "\n".join(_in_pages(lines)) + "\n"


def _in_pages(lines: Sequence[str]) -> Iterator[str]:
    """LaTeX gives up when too many tables wait for a page: after so many they are all set."""
    waiting = 0
    for line in lines:
        yield line
        waiting += line.startswith(r"\end{table")
        if waiting == MOST_WAITING:
            yield r"\clearpage"
            waiting = 0


def _floats(table: Table, board: Board, name: str, banner: str) -> Iterator[str]:
    usual = board.seeds[1]
    cells = [[_source(item, usual) for item in row.items] for row in table.rows]
    widths = [
        2 * GAP
        + max(
            *(_width(_fitted(line)) for line in table.header[column].split("\n")),
            *(_item_width(row.items[column], usual) for row in table.rows),
        )
        for column in range(len(table.header))
    ]
    groups, parts = _groups(table, widths), _parts(table.rows)
    for number, columns in enumerate(groups):
        for part, rows in enumerate(parts):
            more = f" Pairs, part {number + 1} of {len(groups)}." if len(groups) > 1 else ""
            odd = any(item.spread and item.spread.n != usual for place in rows for item in table.rows[place].items)
            told = f" In brackets: seeds, where they are not {usual}." * odd
            caption = banner + table.caption + told + more + (" (Continued.)" if part else "")
            label = f"tab:{name}-{table.name}" + (f"-{number + 1}" if len(groups) > 1 else "") + ("-more" * bool(part))
            star = "*" * (sum(widths[column] for column in columns) > NARROW)
            yield rf"\begin{{table{star}}}[t]"
            yield r"\centering"
            yield rf"\caption{{{latex(caption)}}}"
            yield rf"\label{{{label}{part if part > 1 else ''}}}"
            yield rf"\par\vspace{{3pt}}\footnotesize\setlength{{\tabcolsep}}{{{GAP:g}pt}}"
            yield rf"\begin{{tabular}}{{@{{}}l{'r' * (len(columns) - 1)}@{{}}}}"
            yield from _body(table, cells, columns, rows)
            yield r"\end{tabular}"
            yield rf"\end{{table{star}}}"


def _body(table: Table, cells: list[list[str]], columns: Sequence[int], rows: range) -> Iterator[str]:
    yield r"\toprule"
    heads = [by_line(table.header[column], _name) for column in columns]
    if any(len(head) > 1 for head in heads):
        yield " & ".join(head[0] if len(head) > 1 else "" for head in heads) + r" \\"
    yield " & ".join(head[-1] for head in heads) + r" \\"
    yield r"\midrule"
    before = table.rows[rows[0]].kind
    for place in rows:
        kind = table.rows[place].kind
        if kind != before and before != "teacher":
            yield r"\midrule"
        if kind in CLASS_TITLES and (kind != before or place == rows[0]):
            yield rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\emph{{{latex(CLASS_TITLES[kind])}}}}} \\"
        before = kind
        yield " & ".join(cells[place][column] for column in columns) + r" \\"
    yield r"\bottomrule"


def _groups(table: Table, widths: Sequence[float]) -> list[list[int]]:
    """Columns of each part: the first one, and as many pairs, evenly, as the width holds.

    Of the leaderboard's own columns rank, gain and cells are left to the table of ranks and gains.
    """
    if table.first_pair is None:
        columns = [0]
        for column in range(1, len(widths)):  # the last columns, sources and the like, go first where room is short
            if sum(widths[one] for one in (*columns, column)) <= WIDE:
                columns.append(column)
        return [columns]
    pairs = list(range(table.first_pair, len(widths)))
    for count in range(1, len(pairs) + 1):
        parts = [[pairs[place] for place in part] for part in _evenly(len(pairs), count)]
        if all(widths[0] + sum(widths[one] for one in part) <= WIDE for part in parts):
            break
    return [[0, *part] for part in parts]


def _parts(rows: Sequence[Row]) -> list[range]:
    """Rows of each part, evenly."""
    return _evenly(len(rows), math.ceil(len(rows) / MOST_ROWS))


def _evenly(number: int, count: int) -> list[range]:
    """The numbers from 0 on in so many parts, no two differing by more than one."""
    ends = [round(part * number / count) for part in range(count + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def _name(text: str) -> str:
    return latex(_fitted(text))


def _fitted(text: str) -> str:
    """A name that is not wider than `_WIDEST`, shortened in its middle."""
    length = len(text)
    while length > 8 and _width(text) > _WIDEST:
        length -= 2
        text = plain(text, length)
    return text


def _words(item: Item) -> str:
    """An item's text without the numbers of its footnotes, which print does not have."""
    return _fitted(re.sub(r"( \[\d+\])+$", "", plain(item.text, 200)))


def _source(item: Item, usual: int) -> str:
    """``\\textbf{72.83}$_{\\pm 1.04}$``; how many seeds there were stands where it is not the usual number."""
    found = item.spread
    if found is None:
        text = latex(_words(item))
        return rf"\textbf{{{text}}}" if item.best else text
    mean = f"{found.mean:.2f}"
    mean = rf"\textbf{{{mean}}}" if item.best else rf"\underline{{{mean}}}" if item.second else mean
    below = rf"_{{\pm {found.std:.2f}}}" if found.std is not None else ""
    above = "*" * item.sure + f"({found.n})" * (found.n != usual)
    return mean + (f"${below}{f'^{{{above}}}' if above else ''}$" if below or above else "")


def _item_width(item: Item, usual: int) -> float:
    found = item.spread
    if found is None:
        return _width(_words(item)) * (1.2 if item.best else 1)
    mean = _width(f"{found.mean:.2f}") * (1.2 if item.best else 1)
    below = 6 + 0.8 * _width(f"{found.std:.2f}") if found.std is not None else 0
    above = 4 * item.sure + 13 * (found.n != usual)
    return mean + max(below, above)


def _width(text: str) -> float:
    """About how many points a text takes."""
    return sum(_WIDTHS.get(sign, 4.5 if sign.islower() or sign.isdigit() else 6.7) for sign in printed(text))
