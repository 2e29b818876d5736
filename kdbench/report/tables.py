"""The board as tables of text; every writer (Markdown, LaTeX, HTML, terminal) prints these same tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.report.board import Board, Cell, Line
from kdbench.report.select import Pair
from kdbench.report.stats import Gain, Rank, Spread

TEACHER = "teacher"
NONE = "-"


@dataclass(frozen=True)
class Item:
    """One cell of a table."""

    text: str
    value: float | str | None = None  # what it is sorted by; None goes last
    shade: float | None = None  # gain over the baseline, for the colour
    best: bool = False  # of its column
    title: str = ""  # more words, where there is room for them


@dataclass(frozen=True)
class Row:
    """A row; ``kind`` is ``teacher``, ``student``, ``ranked``, ``modified`` or empty."""

    items: tuple[Item, ...]
    kind: str = ""


@dataclass
class Table:
    """A header, rows and the sentences below them. Columns from ``first_pair`` on are pairs."""

    name: str
    title: str
    header: list[str]  # two lines where there is a line break
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    first_pair: int | None = None


class Footnotes:
    """Sentences with their numbers; one sentence has one number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, sentence: str) -> str:
        """`` [2]``."""
        return f" [{self.numbers.setdefault(sentence, len(self.numbers) + 1)}]"

    def sentences(self) -> list[str]:
        """``[1] ...``, in order."""
        return [f"[{number}] {sentence}" for sentence, number in self.numbers.items()]


def all_tables(board: Board, published: Mapping[tuple[str, str, str], Any]) -> list[Table]:
    """Every table that has something to say, the leaderboard first."""
    made = [
        leaderboard(board),
        oracle(board),
        reproduction(board, published),
        quality(board),
        costs(board),
        settings(board),
        failures(board),
    ]
    return [table for table in made if table.rows]


def leaderboard(board: Board) -> Table:
    """Rank, gain and last-epoch accuracy of every method and pair."""
    notes = Footnotes()
    best = _best(board, "top1_last")
    rows = [_teacher_row(board)] if any(board.teacher_top1(pair) is not None for pair in board.pairs) else []
    for line in board.lines:
        items = [
            Item(line.shown, line.label.lower(), title=line.provenance),
            rank_item(line.rank),
            gain_item(line.gain, line.label == board.baseline),
            _coverage(line),
        ]
        for pair in board.pairs:
            gain = board.cell_gain(line, pair)
            item = _cell(line, line.cells[pair], "top1_last", notes, best=line.label in best.get(pair, ()))
            items.append(Item(item.text, item.value, gain.mean if gain else None, item.best, _words(gain, board)))
        rows.append(Row(tuple(items), line.kind))
    header = ["method", "avg. rank", f"gain over {board.baseline}", "cells", *map(pair_name, board.pairs)]
    table = Table("leaderboard", "Accuracy of the last epoch", header, rows, _explain(board), first_pair=4)
    table.notes += notes.sentences()
    return table


def oracle(board: Board) -> Table:
    """Best test epoch, and how much choosing it flatters."""
    best = _best(board, "top1_best_test")
    rows = []
    for line in board.shown:
        cells = [
            _cell(line, line.cells[pair], "top1_best_test", None, best=line.label in best.get(pair, ()))
            for pair in board.pairs
        ]
        gain = line.selection_optimism
        flat = Item(f"{gain:+.2f}", gain) if gain is not None else Item(NONE)
        rows.append(Row((Item(line.shown, line.label.lower()), flat, *cells), line.kind))
    words = [
        "The epoch is chosen on the test set, which flatters; no rank rests on it."
        " `selection optimism`: points that it adds to the last epoch, mean over runs."
    ]
    return Table(
        "oracle",
        "Oracle: best epoch on the test set",
        ["method", "selection optimism", *map(pair_name, board.pairs)],
        rows,
        words,
        first_pair=2,
    )


def reproduction(board: Board, published: Mapping[tuple[str, str, str], Any]) -> Table:
    """Reported, reproduced and difference, each under the paper's own choice of the epoch."""
    header = ["method", "pair", "reported", "reproduced", "delta", "epoch of both", "our last epoch", "source"]
    table = Table("reproduction", "Reported and reproduced", header, [])
    if board.selection.quick or not published:
        return table
    for line in board.shown:
        for pair in board.pairs:
            paper, last = published.get((*pair, line.label)), line.cells[pair].spread()
            if paper is None or last is None:
                continue
            name = "top1_best_test" if paper.rule == "best_test" else "top1_last"
            own = line.cells[pair].spread(name)
            assert own is not None
            delta = own.mean - paper.mean
            table.rows.append(
                Row(
                    (
                        Item(line.shown, line.label.lower()),
                        Item(one_line(pair), one_line(pair)),
                        Item(_number(paper.mean, paper.std, paper.n), paper.mean),
                        spread_item(own),
                        Item(f"{delta:+.2f}", delta, shade=delta),
                        Item(paper.rule.replace("_", " ")),
                        spread_item(last),
                        Item(paper.source),
                    ),
                    line.kind,
                )
            )
    if table.rows:
        sources = sorted({f"{row.items[-1].text}, {row.items[5].text} epoch" for row in table.rows})
        table.notes.append(f"Reported: {'; '.join(sources)}.")
        table.notes.append(
            "`reproduced` follows the epoch rule of the paper's number, so that like is compared with"
            " like; the ranking above uses the last epoch."
        )
    return table


def quality(board: Board) -> Table:
    """Top-5, likelihood, calibration and agreement with the teacher."""
    names = {"top5_last": "top-5 (%)", "nll": "NLL (nats)", "ece": "ECE (%)", "agreement": "agreement (%)"}
    return Table(
        "quality",
        "Beyond top-1",
        ["method", *names.values()],
        _means(board, names, digits=2),
        [
            "Last epoch, mean over seeds and the method's own pairs. Agreement: share of test images on which student"
            " and teacher say the same."
        ],
    )


def costs(board: Board) -> Table:
    """Time, memory and parameters."""
    names = {
        "group_seconds": "whole group (s)",
        "extra_train_params": "extra parameters\ntraining",
        "extra_infer_params": "extra parameters\ninference",
    }
    rows = _means(board, names, digits=0)
    return Table(
        "cost",
        "Cost of a run",
        ["method", *names.values()],
        rows,
        [
            "Mean over seeds and the method's own pairs. Lanes that trained side by side shared the machine, so seconds"
            " compare methods of one run, not machines. Parameters are counted beside the plain student's."
        ],
    )


def settings(board: Board) -> Table:
    """Provenance and hyper-parameters."""
    rows = []
    for line in board.shown:
        kept: dict[str, list[str]] = {}
        for run in line.runs:
            for name, value in run.settings.hyper.items():
                text = f"{value:g}" if isinstance(value, float) else str(value)
                if text not in kept.setdefault(name, []):
                    kept[name].append(text)
        words = ", ".join(f"{name}={' or '.join(values)}" for name, values in sorted(kept.items()))
        rows.append(Row((Item(line.shown, line.label.lower()), Item(line.provenance), Item(words or NONE)), line.kind))
    return Table("settings", "Methods as they were run", ["method", "made from", "hyper-parameters"], rows)


def failures(board: Board) -> Table:
    """Failed and refused cells with their sentences."""
    seeds: dict[tuple[str, str, str, str], list[int]] = {}
    for one in board.selection.refused:
        key = (one.method, one_line((one.teacher, one.student)), one.status, one.reason)
        seeds.setdefault(key, []).append(one.seed)
    rows = [
        Row((Item(method), Item(pair), Item(", ".join(map(str, sorted(found)))), Item(status), Item(reason)))
        for (method, pair, status, reason), found in seeds.items()
    ]
    return Table("failures", "Cells without a result", ["method", "pair", "seeds", "status", "why"], rows)


def pair_name(pair: Pair) -> str:
    """Two lines: teacher, arrow and student."""
    return f"{pair[0]}\n→ {pair[1]}"


def one_line(pair: Pair) -> str:
    """``teacher → student``."""
    return f"{pair[0]} → {pair[1]}"


def spread_item(found: Spread | None) -> Item:
    """``73.50 ± 0.28 (5)``."""
    return Item(_number(found.mean, found.std, found.n), found.mean) if found else Item(NONE)


def rank_item(rank: Rank | None) -> Item:
    """``1.5 [1.0, 2.3]``."""
    if rank is None:
        return Item(NONE)
    return Item(f"{rank.mean:.2f}" + (f" [{rank.low:.1f}, {rank.high:.1f}]" if rank.low is not None else ""), rank.mean)


def gain_item(gain: Gain | None, is_baseline: bool = False) -> Item:
    """``+1.20 [+0.90, +1.50]``."""
    if gain is None:
        return Item("baseline" if is_baseline else NONE)
    text = f"{gain.mean:+.2f}" + (f" [{gain.low:+.2f}, {gain.high:+.2f}]" if gain.low is not None else "")
    return Item(text, gain.mean, shade=gain.mean)


def _number(mean: float, std: float | None, n: int | None) -> str:
    return f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "") + (f" ({n})" if n is not None else "")


def _cell(line: Line, cell: Cell, name: str, notes: Footnotes | None, *, best: bool) -> Item:
    if cell.status == "missing":
        return Item(NONE)
    marks = ""
    if notes is not None:
        for one in {record.reason: record for record in cell.refused}.values():
            marks += notes.mark(f"{line.label} on {one_line((one.teacher, one.student))}: {one.reason}")
    found = cell.spread(name)
    if found is None:
        return Item(("n/a" if cell.status == "unsupported" else "failed") + marks)
    return Item(_number(*found[:3]) + marks, found.mean, best=best)


def _teacher_row(board: Board) -> Row:
    found = [board.teacher_top1(pair) for pair in board.pairs]
    cells = [Item(f"{value:.2f}", value) if value is not None else Item(NONE) for value in found]
    return Row((Item(TEACHER, TEACHER), Item(NONE), Item(NONE), Item(NONE), *cells), TEACHER)


def _coverage(line: Line) -> Item:
    return Item(f"{len(line.runs)}/{line.known}", len(line.runs) / line.known if line.known else None)


def _best(board: Board, name: str) -> dict[Pair, set[str]]:
    """Labels of the best ranked lines of each pair; none where there is nothing to compare."""
    best: dict[Pair, set[str]] = {}
    for pair in board.pairs:
        means = {line.label: found.mean for line in board.ranked if (found := line.cells[pair].spread(name))}
        if len(means) > 1:
            top = max(means.values())
            best[pair] = {label for label, mean in means.items() if mean == top}
    return best


def _means(board: Board, names: Mapping[str, str], digits: int) -> list[Row]:
    rows = []
    for line in board.shown:
        found: Sequence[float | None] = [line.mean(name) for name in names]
        if any(value is not None for value in found):
            cells = [Item(f"{value:,.{digits}f}", value) if value is not None else Item(NONE) for value in found]
            rows.append(Row((Item(line.shown, line.label.lower()), *cells), line.kind))
    return rows


def _words(gain: Gain | None, board: Board) -> str:
    if gain is None:
        return ""
    return f"{gain_item(gain).text} over {board.baseline}, {gain.runs} paired run{'s' * (gain.runs != 1)}"


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def _has_interval(board: Board) -> bool:
    return any(line.rank is not None and line.rank.low is not None for line in board.compared)


def _explain(board: Board) -> list[str]:
    words = ["Top-1 in percent on the test set after the last epoch: mean ± standard deviation (number of seeds)."]
    if any(line.gain for line in board.lines):
        sure = any(line.gain and line.gain.low is not None for line in board.lines)
        interval = "; 95% interval for these pairs, from the spread over seeds" if sure else ""
        words.append(
            f"Gain over {board.baseline}: mean over the method's own pairs of the paired differences, seed by"
            f" seed, in points{interval}."
        )
    if board.compared:
        interval = "; 95% bootstrap interval over blocks of pair and seed" if _has_interval(board) else ""
        words.append(f"Average rank over {_pairs(len(board.ranked_pairs))}, 1 is best{interval}.")
    aris = [line for line in board.compared if line.ari]
    if aris:
        leader = board.compared[0].shown
        said = []
        for line in aris:
            if line.ari is not None and line.ari.value is not None:
                left = f" (without {_pairs(line.ari.excluded)})" if line.ari.excluded else ""
                said.append(f"{line.shown} {line.ari.value:.0f}%{left}")
        undefined = [line.shown for line in aris if line.ari is not None and line.ari.value is None]
        if undefined:
            said.append(f"undefined for {', '.join(undefined)}")
        words.append(
            f"Average relative improvement of {leader} over: {', '.join(said)}. Pairs on which a method gains"
            " less than 0.1 points over the plain student cannot be divided by and are left out."
        )
    if any(line.kind == "modified" for line in board.lines):
        words.append("Methods that change the student at inference are a class of their own, below the others.")
    if any("reading" in line.provenance for line in board.lines):
        words.append("(reading): rebuilt from the paper's text alone, without the authors' code.")
    return words
