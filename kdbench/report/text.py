"""The leaderboard's numbers as CSV, and all tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from kdbench.report import escape, facts
from kdbench.report.board import PARAMETERS, QUALITY, RULES, Board
from kdbench.report.items import CLASS_TITLES, Item, Row, Table

_INTEGERS = ("gain_paired_runs", "gain_blocks", "runs", "independent_runs", "known", "ari_excluded")


def wide_form(board: Board) -> pd.DataFrame:
    """One row per method, numbers only, in the order of the leaderboard."""
    rows = []
    for line in board.lines:
        row: dict[str, object] = {
            "method": escape.csv(line.label),
            "class": line.kind,
            "provenance": escape.csv(line.provenance),
            "epoch": board.rule,
            "rank": line.rank and line.rank.mean,
            "rank_low": line.rank and line.rank.low,
            "rank_high": line.rank and line.rank.high,
            "rank_best": line.rank and line.rank.best,
            "baseline": escape.csv(board.baseline),
            "gain": line.gain and line.gain.mean,
            "gain_low": line.gain and line.gain.low,
            "gain_high": line.gain and line.gain.high,
            "gain_p": line.gain and line.gain.p,
            "gain_p_holm": line.p,
            "gain_paired_runs": line.gain and line.gain.runs,
            "gain_blocks": line.gain and line.gain.blocks,
            "runs": len(line.runs),
            "independent_runs": line.independent,
            "known": line.known,
            "selection_optimism": line.selection_optimism,
            "ari_of_leader": line.ari and line.ari.value,
            "ari_excluded": line.ari and line.ari.excluded,
        }
        row |= {name: line.mean(name) for name in (*QUALITY, *PARAMETERS)}
        for pair in board.pairs:
            name, cell = str(escape.csv(":".join(pair))), line.cells[pair]
            last, oracle, gain = cell.spread(), cell.spread(RULES["oracle"]), board.cell_gain(line, pair)
            row |= {
                f"{name} status": cell.status,
                f"{name} mean": last and last.mean,
                f"{name} std": last and last.std,
                f"{name} n": last.n if last else 0,
                f"{name} gain": gain and gain.mean,
                f"{name} gain_low": gain and gain.low,
                f"{name} gain_high": gain and gain.high,
                f"{name} gain_p_holm": board.cell_p.get((line.label, pair)),
                f"{name} best_test_mean": oracle and oracle.mean,
                f"{name} best_test_std": oracle and oracle.std,
                f"{name} teacher": board.teacher_top1(pair),
            }
        rows.append(row)
    return pd.DataFrame(rows).astype(dict.fromkeys(_INTEGERS, "Int64"))


def csv(frame: pd.DataFrame) -> str:
    """Numbers with six digits after the point, so that a diff shows changes and not rounding."""
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def markdown(board: Board, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The whole report as GitHub's Markdown."""
    lines = [f"# {escape.markdown(facts.title(board.selection))}", ""]
    if banner := facts.banner(board.selection):
        lines += [f"> **{escape.markdown(banner)}**", ""]
    for table in tables:
        lines += [f"## {escape.markdown(table.title)}", "", _row(Item(head) for head in table.header)]
        align = ["---" if number == 0 else "---:" for number in range(len(table.header))]
        lines.append("| " + " | ".join(align if _numbers(table) else ["---"] * len(table.header)) + " |")
        for row, first in _with_class(table):
            if first:
                empty = [Item("")] * (len(table.header) - 1)
                lines.append(_row([Item(first, second=True), *empty]))
            lines.append(_row(row.items))
        lines += ["", *(_point(note) for note in table.notes), ""]
    if notes:
        lines += ["## Notes", "", *map(_point, notes), ""]
    lines += ["## Made with", "", *(_point(f"{name}: {value}") for name, value in facts.environment(board)), ""]
    return "\n".join(lines)


def _numbers(table: Table) -> bool:
    return table.name not in ("settings", "failures")


def _with_class(table: Table) -> list[tuple[Row, str]]:
    """Rows, and before the first of a class of its own that class's title."""
    seen, out = set(), []
    for row in table.rows:
        first = CLASS_TITLES.get(row.kind, "") if row.kind not in seen else ""
        seen.add(row.kind)
        out.append((row, first))
    return out


def _row(items: Iterable[Item]) -> str:
    return "| " + " | ".join(map(_cell, items)) + " |"


def _cell(item: Item) -> str:
    """Best in bold; the second best, which Markdown cannot underline, in italics."""
    text = escape.markdown(item.text)
    return f"**{text}**" if item.best and text else f"_{text}_" if item.second and text else text


def _point(note: str) -> str:
    return f"- {escape.markdown(note, block=True)}"
