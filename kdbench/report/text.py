"""Tables as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from kdbench.record import CSV_COLUMNS, Record, csv_row
from kdbench.report import facts
from kdbench.report.board import COSTS, QUALITY, Board
from kdbench.report.tables import Item, Row, Table

_CLASS_TITLES = {"modified": "methods that change the student at inference"}
_INTEGERS = ("seed", "epochs", "extra_train_params", "extra_infer_params")


def long_form(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run, numbers only, sorted."""
    ordered = sorted(
        records,
        key=lambda one: (
            one.teacher,
            one.student,
            one.method != "student",
            one.method,
            one.seed,
            -one.epochs,
            one.settings_hash,
        ),
    )
    frame = pd.DataFrame([csv_row(record) for record in ordered], columns=list(CSV_COLUMNS))
    return frame.astype(dict.fromkeys(_INTEGERS, "Int64"))


def wide_form(board: Board) -> pd.DataFrame:
    """One row per method, numbers only, in the order of the leaderboard."""
    rows = []
    for line in board.lines:
        row: dict[str, object] = {
            "method": line.label,
            "class": line.kind,
            "provenance": line.provenance,
            "rank": line.rank and line.rank.mean,
            "rank_low": line.rank and line.rank.low,
            "rank_high": line.rank and line.rank.high,
            "baseline": board.baseline,
            "gain": line.gain and line.gain.mean,
            "gain_low": line.gain and line.gain.low,
            "gain_high": line.gain and line.gain.high,
            "runs": len(line.runs),
            "known": line.known,
            "selection_optimism": line.selection_optimism,
            "ari_of_leader": line.ari and line.ari.value,
            "ari_excluded": line.ari and line.ari.excluded,
        }
        row |= {name: line.mean(name) for name in (*QUALITY, *COSTS)}
        for pair in board.pairs:
            name, cell = ":".join(pair), line.cells[pair]
            last, oracle, gain = cell.spread(), cell.spread("top1_best_test"), board.cell_gain(line, pair)
            row |= {
                f"{name} status": cell.status,
                f"{name} mean": last and last.mean,
                f"{name} std": last and last.std,
                f"{name} n": last.n if last else 0,
                f"{name} gain": gain and gain.mean,
                f"{name} gain_low": gain and gain.low,
                f"{name} gain_high": gain and gain.high,
                f"{name} best_test_mean": oracle and oracle.mean,
                f"{name} best_test_std": oracle and oracle.std,
                f"{name} teacher": board.teacher_top1(pair),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def csv(frame: pd.DataFrame) -> str:
    """Numbers with six digits after the point, so that a diff shows changes and not rounding."""
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def markdown(board: Board, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The whole report as GitHub's Markdown."""
    selection = board.selection
    lines = [f"# {facts.title(selection)}", ""]
    if banner := facts.banner(selection):
        lines += [f"> **{banner}**", ""]
    for table in tables:
        lines += [f"## {table.title}", "", _markdown_row(Item(head.replace("\n", " ")) for head in table.header)]
        align = ["---" if number == 0 else "---:" for number in range(len(table.header))]
        lines.append("| " + " | ".join(align if _numbers(table) else ["---"] * len(table.header)) + " |")
        for row, first in _with_class(table):
            if first:
                empty = [Item("")] * (len(table.header) - 1)
                lines.append(_markdown_row([Item(f"_{first}_"), *empty]))
            lines.append(_markdown_row(row.items))
        lines += ["", *(f"- {_markdown(note)}" for note in table.notes), ""]
    if notes:
        lines += ["## Notes", "", *(f"- {_markdown(note)}" for note in notes), ""]
    lines += ["## Made with", "", *(f"- {name}: {value}" for name, value in facts.environment(board)), ""]
    return "\n".join(lines)


def _numbers(table: Table) -> bool:
    return table.name not in ("settings", "failures")


def _with_class(table: Table) -> list[tuple[Row, str]]:
    """Rows, and before the first of a class of its own that class's title."""
    seen, out = set(), []
    for row in table.rows:
        first = _CLASS_TITLES.get(row.kind, "") if row.kind not in seen else ""
        seen.add(row.kind)
        out.append((row, first))
    return out


def _markdown_row(items: Iterable[Item]) -> str:
    cells = [f"**{_markdown(item.text)}**" if item.best else _markdown(item.text) for item in items]
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").split())


def latex(board: Board, tables: Sequence[Table], notes: Sequence[str]) -> str:
    r"""One ``table`` environment for each table of numbers; needs ``\usepackage{booktabs,graphicx}``."""
    lines = [f"% {facts.title(board.selection)}", f"% {facts.footer(board)}", r"% needs \usepackage{booktabs,graphicx}"]
    if banner := facts.banner(board.selection):
        lines.append(f"% {banner}")
    lines += [f"% {note}" for note in notes]
    for table in tables:
        if _numbers(table):
            lines += ["", *_latex_table(table, banner)]
    return "\n".join(lines) + "\n"


def _latex_table(table: Table, banner: str) -> list[str]:
    heads = [head.split("\n") for head in table.header]
    columns = "l" + "r" * (len(heads) - 1)
    caption = f"{table.title}." + (f" {banner}." if banner else "")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    if any(len(head) > 1 for head in heads):
        lines.append(" & ".join(_latex(head[0]) if len(head) > 1 else "" for head in heads) + r" \\")
    lines += [" & ".join(_latex(head[-1]) for head in heads) + r" \\", r"\midrule"]
    before = table.rows[0].kind
    for row, first in _with_class(table):
        if row.kind != before and before != "teacher":
            lines.append(r"\midrule")
        before = row.kind
        if first:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{_latex(first)}}}}} \\")
        cells = (rf"\textbf{{{_latex(item.text)}}}" if item.best else _latex(item.text) for item in row.items)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.notes:
        below = " ".join(" ".join(note.split()) for note in table.notes)
        lines.append(rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {_latex(below)}\end{{minipage}}")
    return [*lines, r"\end{table}"]


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "`": "'",
    "·": r"$\cdot$",
    "τ": r"$\tau$",
}


def _latex(text: str) -> str:
    """LaTeX source of a text; a row that begins with ``[`` would be read as an option, hence the braces."""
    source = "".join(_LATEX.get(sign, sign) for sign in text)
    return f"{{{source}}}" if source.startswith("[") else source
