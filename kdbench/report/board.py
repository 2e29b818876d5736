"""The leaderboard as numbers: one line per method, one cell per method and pair; no text, no drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from kdbench.record import Record
from kdbench.report import stats
from kdbench.report.select import Pair, Selection
from kdbench.report.stats import Ari, Gain, Rank, Spread

STUDENT = "student"

Blocks = dict[tuple[str, int], dict[str, float]]  # (pair, seed) -> method -> last-epoch accuracy

#: Measured circumstances and costs of a run, averaged per line.
COSTS = ("group_seconds", "extra_train_params", "extra_infer_params")
QUALITY = ("top5_last", "nll", "ece", "agreement")


@dataclass(frozen=True)
class Cell:
    """A method on a pair."""

    runs: tuple[Record, ...] = ()  # finished, in the order of the seeds
    refused: tuple[Record, ...] = ()  # failed or unsupported

    @property
    def status(self) -> str:
        """``done`` when there is a finished run, else ``failed``, ``unsupported`` or ``missing``."""
        if self.runs:
            return "done"
        kinds = {record.status for record in self.refused}
        return "failed" if "failed" in kinds else "unsupported" if kinds else "missing"

    def values(self, name: str = "top1_last") -> list[float]:
        """A number of every finished run that has it and in which it is finite."""
        found = (getattr(record, name) for record in self.runs)
        return [value for value in found if value is not None and math.isfinite(value)]

    def spread(self, name: str = "top1_last") -> Spread | None:
        """Its mean and spread over the seeds."""
        values = self.values(name)
        return stats.spread(values) if values else None

    def by_seed(self) -> dict[int, float]:
        """Last-epoch accuracy of each seed."""
        return {record.seed: record.top1_last for record in self.runs if record.top1_last is not None}


@dataclass
class Line:
    """A method over all pairs."""

    label: str
    kind: Literal["student", "ranked", "modified"]
    provenance: str
    cells: dict[Pair, Cell]
    known: int  # (pair, seed) cells that a complete method would have
    rank: Rank | None = None
    gain: Gain | None = None
    ari: Ari | None = None  # of the leader over this method

    @property
    def shown(self) -> str:
        """The label; a method that was rebuilt from reading alone says so wherever it is named."""
        return f"{self.label} (reading)" if "reading" in self.provenance else self.label

    @property
    def runs(self) -> list[Record]:
        """Finished runs on all pairs."""
        return [record for cell in self.cells.values() for record in cell.runs]

    @property
    def complete(self) -> bool:
        """Whether every known cell is finished."""
        return len(self.runs) == self.known

    def mean(self, name: str, pairs: Iterable[Pair] | None = None) -> float | None:
        """Mean over pairs of the mean over seeds; None where nothing was measured."""
        chosen = self.cells if pairs is None else pairs
        means = [found.mean for pair in chosen if (found := self.cells[pair].spread(name)) is not None]
        return sum(means) / len(means) if means else None

    @property
    def selection_optimism(self) -> float | None:
        """Points that choosing the best epoch on the test set adds to the last epoch, mean over runs."""
        extra = [
            one.top1_best_test - one.top1_last
            for one in self.runs
            if one.top1_best_test is not None and one.top1_last is not None
        ]
        return sum(extra) / len(extra) if extra else None


@dataclass
class Board:
    """All lines of one suite in the order of the table: student, ranked, those that change the student."""

    selection: Selection
    baseline: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    ranked_pairs: list[Pair] = field(default_factory=list)  # that all ranked methods have
    blocks: Blocks = field(default_factory=dict)  # what the ranking rests on

    @property
    def pairs(self) -> list[Pair]:
        """Columns."""
        return self.selection.pairs

    @property
    def ranked(self) -> list[Line]:
        """Lines of the ranking, best first; those without a finished run last."""
        return [line for line in self.lines if line.kind == "ranked"]

    @property
    def compared(self) -> list[Line]:
        """Ranked lines that have a rank."""
        return [line for line in self.ranked if line.rank is not None]

    @property
    def shown(self) -> list[Line]:
        """Lines with at least one finished run."""
        return [line for line in self.lines if line.runs]

    def line(self, label: str) -> Line | None:
        """The line of a method."""
        return next((line for line in self.lines if line.label == label), None)

    def cell_gain(self, line: Line, pair: Pair, over: str | None = None) -> Gain | None:
        """Paired difference of a method to the baseline on one pair."""
        base = self.line(over or self.baseline)
        if base is None or base.label == line.label:
            return None
        return stats.gain([_differences(line.cells[pair], base.cells[pair])])

    def teacher_top1(self, pair: Pair) -> float | None:
        """The teacher's own accuracy; the selection holds one teacher per pair."""
        found = [one.teacher_top1 for line in self.lines for one in line.cells[pair].runs]
        return next((value for value in found if value is not None), None)

    @cached_property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most seeds behind a finished cell."""
        counts = [len(cell.runs) for line in self.lines for cell in line.cells.values() if cell.runs]
        return (min(counts), max(counts)) if counts else (0, 0)


def build(selection: Selection, baseline: str = STUDENT) -> Board:
    """Every number of a suite's table."""
    refused = selection.refused
    known = len(selection.known())
    lines = []
    for method in selection.methods:
        cells = {
            pair: Cell(
                tuple(selection.runs.get((method, pair), ())),
                tuple(one for one in refused if one.method == method and (one.teacher, one.student) == pair),
            )
            for pair in selection.pairs
        }
        any_record = next(one for cell in cells.values() for one in cell.runs + cell.refused)
        kind: Literal["student", "ranked", "modified"] = (
            "student" if method == STUDENT else "modified" if any_record.modified_student else "ranked"
        )
        lines.append(Line(method, kind, any_record.provenance, cells, known))
    board = Board(selection, baseline, lines)
    _gains(board)
    _ranks(board, "modified")
    board.ranked_pairs, board.blocks = _ranks(board, "ranked")
    order = {"student": 0, "ranked": 1, "modified": 2}
    board.lines.sort(key=lambda line: (order[line.kind], *_place(line)))
    _relative(board)
    return board


def _place(line: Line) -> tuple[float, float, float, str]:
    rank = line.rank.mean if line.rank else float("inf")
    gain = line.gain.mean if line.gain else float("-inf")
    mean = line.mean("top1_last")
    return rank, -gain, -(mean if mean is not None else float("-inf")), line.label


def _gains(board: Board) -> None:
    base = board.line(board.baseline)
    if base is None or not base.runs:
        board.notes.append(f"no gains are shown: there is no finished run of the baseline {board.baseline}")
        return
    for line in board.lines:
        if line is not base:
            line.gain = stats.gain([_differences(line.cells[pair], base.cells[pair]) for pair in board.pairs])


def _ranks(board: Board, kind: str) -> tuple[list[Pair], Blocks]:
    """Set the ranks of one class; returns the pairs and blocks that they rest on.

    A method that refuses or lacks a pair would take that pair from everybody's rank: where two or
    more methods have every pair they alone are ranked, else all of them on the pairs they share.
    """
    lines = [line for line in board.shown if line.kind == kind]
    whole = [line for line in lines if all(line.cells[pair].by_seed() for pair in board.pairs)]
    if 2 <= len(whole) < len(lines):
        partial = ", ".join(line.label for line in lines if line not in whole)
        board.notes.append(f"not ranked, because they lack a result on some pair: {partial}")
        lines = whole
    if len(lines) < 2:
        return [], {}
    blocks: Blocks = {}
    common = []
    for pair in board.pairs:
        scores = [line.cells[pair].by_seed() for line in lines]
        seeds = set.intersection(*(set(one) for one in scores))
        if seeds:
            common.append(pair)
        for seed in sorted(seeds):
            found = {line.label: one[seed] for line, one in zip(lines, scores, strict=True)}
            blocks[":".join(pair), seed] = found
    what = "methods" if kind == "ranked" else "methods that change the student"
    if not blocks:
        board.notes.append(f"no average rank of the {what}: there is no pair and seed that all of them have finished")
        return [], {}
    if len(common) < len(board.pairs):
        left = ", ".join(":".join(pair) for pair in board.pairs if pair not in common)
        board.notes.append(
            f"average rank of the {what} over {len(common)} of {len(board.pairs)} pairs, those that all"
            f" of them have; without {left}"
        )
    ranks = stats.average_ranks({key: list(found.values()) for key, found in blocks.items()})
    for line, rank in zip(lines, ranks, strict=True):
        line.rank = rank
    return common, blocks


def _relative(board: Board) -> None:
    """ARI of the leader over every other ranked method."""
    leader, student = next(iter(board.compared), None), board.line(STUDENT)
    if leader is None or student is None:
        return
    for line in board.compared:
        if line is leader:
            continue
        rows = [
            (a.mean, b.mean, c.mean)
            for pair in board.pairs
            if (a := leader.cells[pair].spread())
            and (b := line.cells[pair].spread())
            and (c := student.cells[pair].spread())
        ]
        if rows:
            best, other, plain = zip(*rows, strict=True)
            line.ari = stats.ari(best, other, plain)


def _differences(cell: Cell, base: Cell) -> list[float]:
    own, other = cell.by_seed(), base.by_seed()
    return [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
