"""The board as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdbench.report import averaged, facts, mismatch
from kdbench.report.board import PARAMETERS, RULES, Board, Cell, Line
from kdbench.report.certainty import differences, significance
from kdbench.report.escape import plain
from kdbench.report.explain import explain
from kdbench.report.items import (
    LONGEST_REASON,
    NONE,
    TEACHER,
    Footnotes,
    Item,
    Row,
    Table,
    count,
    gain_item,
    number,
    one_line,
    p_words,
    pair_name,
    rank_item,
    sure,
)
from kdbench.report.reproduction import reproduction
from kdbench.report.select import version
from kdbench.report.stats import Gain
from kdbench.report.teacherless import Pair
from kdbench.suites import Standing


def all_tables(
    board: Board, published: Mapping[tuple[str, str, str], Any], standing: Mapping[Pair, Sequence[Standing]]
) -> list[Table]:
    """Every table that has something to say, the leaderboard first."""
    made = [
        leaderboard(board),
        differences(board),
        significance(board),
        mismatch.table(board),
        averaged.table(board),
        oracle(board) if board.rule != "oracle" and len(board.selection.looks) < 2 else Table("oracle", "", [], []),
        reproduction(board, published, standing),
        quality(board),
        parameters(board),
        settings(board),
        failures(board),
    ]
    return [table for table in made if table.rows]


def leaderboard(board: Board) -> Table:
    """Rank, gain and accuracy of every method and pair."""
    notes = Footnotes()
    best = _best(board, "")
    rows = [_teacher_row(board)] if any(board.teacher_top1(pair) is not None for pair in board.pairs) else []
    for line in board.lines:
        items = [
            Item(line.shown, line.label.lower(), title=line.provenance),
            rank_item(line.rank),
            gain_item(line.gain, line.label == board.baseline, line.p),
            _coverage(line),
        ]
        for pair in board.pairs:
            item = _cell(line, line.cells[pair], "", notes, best.get(pair, {}))
            gain = board.cell_gain(line, pair)
            words = _words(board, line, pair, gain)
            certain = sure(board.cell_p.get((line.label, pair)))
            items.append(replace(item, shade=gain.mean if gain else None, title=words, sure=certain))
        rows.append(Row(tuple(items), line.kind))
    base = plain(board.baseline, 60)
    header = ["method", "avg. rank", f"gain over {base}", "cells", *map(pair_name, board.pairs)]
    rule = facts.RULE_WORDS[board.rule]
    table = Table("leaderboard", f"Accuracy of the {rule}", header, rows, explain(board), first_pair=4)
    table.notes += notes.sentences()
    table.caption = (
        f"Top-1 (%) on {plain(board.selection.dataset, 40)}, {rule}; mean and standard deviation,"
        f" {facts.seeds(board)}. Best mean in bold, second best underlined"
    )
    table.caption += f"; *: differs from {base} (Holm)." if any(i.sure for r in rows for i in r.items) else "."
    return table


def oracle(board: Board) -> Table:
    """Best test epoch, and how much choosing it flatters."""
    metric = RULES["oracle"]
    best = _best(board, metric)
    rows = []
    for line in board.shown:
        cells = [_cell(line, line.cells[pair], metric, None, best.get(pair, {})) for pair in board.pairs]
        gain = line.selection_optimism
        flat = Item(f"{gain:+.2f}", gain) if gain is not None else Item(NONE)
        rows.append(Row((Item(line.shown, line.label.lower()), flat, *cells), line.kind))
    words = [
        "The epoch is chosen on the test set, which flatters; no rank rests on it."
        " Selection optimism: points that it adds to the last epoch, mean over runs."
    ]
    return Table(
        "oracle",
        "Oracle: best epoch on the test set",
        ["method", "selection optimism", *map(pair_name, board.pairs)],
        rows,
        words,
        first_pair=2,
        caption=f"ORACLE: top-1 (%) of the best test epoch; choosing it there flatters. {facts.seeds(board)}.",
    )


def quality(board: Board) -> Table:
    """Top-5, likelihood, calibration and agreement with the teacher."""
    names = {"top5_last": "top-5 (%)", "nll": "NLL (nats)", "ece": "ECE (%)", "agreement": "agreement (%)"}
    return Table(
        "quality",
        "Beyond top-1",
        ["method", *names.values()],
        _means(board, names, digits=2),
        [
            f"Last epoch, mean over {facts.seeds(board)} and the method's own pairs. Agreement: share of test images on"
            " which student and teacher say the same."
        ],
        caption=f"Beyond top-1: last epoch, mean over seeds and pairs, {facts.seeds(board)}.",
    )


def parameters(board: Board) -> Table:
    """What a method adds to the student."""
    names = dict(zip(PARAMETERS, ("training", "inference"), strict=True))
    return Table(
        "parameters",
        "Extra parameters",
        ["method", *names.values()],
        _means(board, names, digits=0),
        ["Counted beside the plain student's; mean over the method's own pairs."],
    )


def settings(board: Board) -> Table:
    """Provenance and hyper-parameters."""
    rows = []
    for line in board.shown:
        kept: dict[str, list[str]] = {}
        for run in line.runs:
            for name, value in run.settings.hyper.items():
                text = f"{value:g}" if isinstance(value, float) else plain(value, 40)
                if text not in kept.setdefault(plain(name, 40), []):
                    kept[plain(name, 40)].append(text)
        words = plain(", ".join(f"{name}={' or '.join(values[:12])}" for name, values in sorted(kept.items())), 600)
        rows.append(Row((Item(line.shown, line.label.lower()), Item(line.provenance), Item(words or NONE)), line.kind))
    return Table("settings", "Methods as they were run", ["method", "made from", "hyper-parameters"], rows)


def failures(board: Board) -> Table:
    """Failed and refused cells with their sentences."""
    seeds: dict[tuple[str, str, str, str], list[int]] = {}
    for one in {id(one): one for _, one in board.selection.refused}.values():
        reason = plain(one.reason, LONGEST_REASON)
        key = (plain(one.method, 100), one_line((one.teacher, one.student)), one.status, reason)
        seeds.setdefault(key, []).append(one.seed)
    rows = [
        Row((Item(method), Item(pair), Item(", ".join(map(str, sorted(found)))), Item(status), Item(reason)))
        for (method, pair, status, reason), found in seeds.items()
    ]
    return Table("failures", "Cells without a result", ["method", "pair", "seeds", "status", "why"], rows)


def _cell(line: Line, cell: Cell, name: str, notes: Footnotes | None, places: Mapping[str, int]) -> Item:
    if cell.status == "missing":
        return Item(NONE)
    marks = ""
    if notes is not None:
        for one in {record.reason: record for record in cell.refused}.values():
            where = one_line((one.teacher, one.student))
            marks += notes.mark(f"{plain(line.label, 100)} on {where}: {plain(one.reason, LONGEST_REASON)}")
    found = cell.spread(name)
    if found is None:
        return Item({"unsupported": "n/a", "failed": "failed"}.get(cell.status, NONE) + marks, records=cell.refused)
    place, text, runs = places.get(line.label), number(*found[:3]) + marks, cell.runs + cell.refused
    return Item(text, found.mean, best=place == 1, second=place == 2, spread=found, records=runs)


def _teacher_row(board: Board) -> Row:
    cells = []
    for pair in board.pairs:
        value, run = board.teacher_top1(pair), board.teacher_run(pair)
        cells.append(Item(f"{value:.2f}", value, records=(run,)) if value is not None and run else Item(NONE))
    return Row((Item(TEACHER, TEACHER), Item(NONE), Item(NONE), Item(NONE), *cells), TEACHER)


def _coverage(line: Line) -> Item:
    """``9/9``, and how many runs these are where a run stands in several columns."""
    text = f"{len(line.runs)}/{line.known}"
    if line.independent != len(line.runs):
        text += f" ({count(line.independent, 'run')})"
    return Item(text, len(line.runs) / line.known if line.known else None)


def _best(board: Board, name: str) -> dict[Pair, dict[str, int]]:
    """For each pair the ranked lines in first and second place, as far as two digits tell; none for a single line."""
    best: dict[Pair, dict[str, int]] = {}
    ranked = [line for line in board.everything if line.kind == "ranked"]
    for pair in board.pairs:
        means = {line.label: round(found.mean, 2) for line in ranked if (found := line.cells[pair].spread(name))}
        if len(means) > 1:
            order = sorted(set(means.values()), reverse=True)[:2]
            best[pair] = {label: order.index(mean) + 1 for label, mean in means.items() if mean in order}
    return best


def _means(board: Board, names: Mapping[str, str], digits: int) -> list[Row]:
    rows = []
    for line in board.shown:
        found: Sequence[float | None] = [line.mean(name) for name in names]
        if any(value is not None for value in found):
            cells = [Item(f"{value:,.{digits}f}", value) if value is not None else Item(NONE) for value in found]
            rows.append(Row((Item(line.shown, line.label.lower()), *cells), line.kind))
    return rows


def _words(board: Board, line: Line, pair: Pair, gain: Gain | None) -> str:
    """The facts behind a cell."""
    cell, said = line.cells[pair], []
    if gain is not None:
        p = board.cell_p.get((line.label, pair))
        corrected = f", p = {p_words(p)} (Holm)" if p is not None else ""
        runs = count(gain.runs, "paired run")
        said.append(f"{gain_item(gain).text} over {plain(board.baseline, 60)}, {runs}{corrected}")
    if cell.runs:
        first = cell.runs[0]
        said.append("seeds " + ", ".join(f"{seed}: {value:.2f}" for seed, value in [*cell.by_seed.items()][:10]))
        if line.shared:
            said.append("needs no teacher: the same run in every column of this student")
        best = cell.spread(RULES["oracle"])
        if best is not None and board.rule != "oracle":
            said.append(f"best test epoch {best.mean:.2f}")
        said.append(f"settings {plain(first.settings_hash, 16)}, code {version(first)}, {plain(first.finished[:10])}")
    return "; ".join(said)
