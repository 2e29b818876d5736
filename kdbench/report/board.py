"""The leaderboard as numbers: one line per method, one cell per method and pair; no text, no drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from kdbench.record import Record
from kdbench.report import resample, stats
from kdbench.report.escape import plain
from kdbench.report.resample import Rank
from kdbench.report.select import Selection
from kdbench.report.stats import Ari, Gain, Spread
from kdbench.report.teacherless import Pair

STUDENT = "student"
#: The provenance of a method that was rebuilt from a paper's text alone, as tables and figures say it.
READING = "reading"

Blocks = dict[tuple[str, int], dict[str, float]]  # (pair, seed) -> method -> accuracy

#: Which epoch of a run counts: the choice -> a record's field.
RULES = {"last": "top1_last", "val": "top1_at_best_val", "oracle": "top1_best_test"}
#: Counted beside the plain student's.
PARAMETERS = ("extra_train_params", "extra_infer_params")
QUALITY = ("top5_last", "nll", "ece", "agreement")


@dataclass(frozen=True)
class Cell:
    """A method on a pair."""

    runs: tuple[Record, ...] = ()  # finished, in the order of the seeds
    refused: tuple[Record, ...] = ()  # failed or unsupported
    metric: str = "top1_last"  # the accuracy that counts
    _known: dict[str, Spread | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def status(self) -> str:
        """``done`` when there is a finished run, else ``failed``, ``unsupported`` or ``missing``."""
        if self.runs:
            return "done"
        kinds = {record.status for record in self.refused}
        return "failed" if "failed" in kinds else "unsupported" if kinds else "missing"

    def values(self, name: str = "") -> list[float]:
        """A number of every finished run that has it and in which it is finite; by default the accuracy."""
        found = (getattr(record, name or self.metric) for record in self.runs)
        return [value for value in found if value is not None and math.isfinite(value)]

    def spread(self, name: str = "") -> Spread | None:
        """Its mean and spread over the seeds."""
        if name not in self._known:
            values = self.values(name)
            self._known[name] = stats.spread(values) if values else None
        return self._known[name]

    @cached_property
    def by_seed(self) -> dict[int, float]:
        """Accuracy of each seed."""
        found = {record.seed: getattr(record, self.metric) for record in self.runs}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


@dataclass
class Line:
    """A method over all pairs."""

    label: str
    kind: Literal["student", "ranked", "modified"]
    provenance: str
    cells: dict[Pair, Cell]
    known: int  # (pair, seed) cells that a complete method would have
    shared: bool = False  # needs no teacher: a run stands in every column of its student
    rank: Rank | None = None
    gain: Gain | None = None
    p: float | None = None  # of the gain, corrected for the number of methods
    ari: Ari | None = None  # of the leader over this method

    @cached_property
    def shown(self) -> str:
        """The label; a method that was rebuilt from reading alone says so wherever it is named."""
        label = plain(self.label, 100)
        return f"{label} ({READING})" if READING in self.provenance else label

    @property
    def runs(self) -> list[Record]:
        """Finished runs on all pairs."""
        return [record for cell in self.cells.values() for record in cell.runs]

    @property
    def independent(self) -> int:
        """Number of runs; one that stands in several columns is one."""
        runs = [(pair, one.seed) for pair, cell in self.cells.items() for one in cell.runs]
        return len({(student, seed) for (_, student), seed in runs}) if self.shared else len(runs)

    @property
    def complete(self) -> bool:
        """Whether every known cell is finished."""
        return len(self.runs) == self.known

    def mean(self, name: str = "", pairs: Iterable[Pair] | None = None) -> float | None:
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
    rule: str = "last"  # of `RULES`
    notes: list[str] = field(default_factory=list)
    ranked_pairs: list[Pair] = field(default_factory=list)  # that all ranked methods have
    blocks: Blocks = field(default_factory=dict)  # what the ranking rests on
    gains: dict[tuple[str, Pair], Gain] = field(default_factory=dict)  # over the baseline, by method and pair
    cell_p: dict[tuple[str, Pair], float | None] = field(default_factory=dict)  # corrected for the number of cells
    hidden: list[Line] = field(default_factory=list)  # behind the first ones that were asked for
    every_two: Any = None  # what kdbench.report.compare has found, once it was asked

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

    @property
    def everything(self) -> list[Line]:
        """All lines, those that are not shown last."""
        return self.lines + self.hidden

    def line(self, label: str) -> Line | None:
        """The line of a method."""
        return next((line for line in self.everything if line.label == label), None)

    def cell_gain(self, line: Line, pair: Pair) -> Gain | None:
        """Paired difference of a method to the baseline on one pair."""
        return self.gains.get((line.label, pair))

    def teacher_top1(self, pair: Pair) -> float | None:
        """The teacher's own accuracy; the selection holds one teacher per pair."""
        one = self.teacher_run(pair)
        return one.teacher_top1 if one is not None else None

    def teacher_run(self, pair: Pair) -> Record | None:
        """A run that says how good the teacher is."""
        found = (one for line in self.everything for one in line.cells[pair].runs)
        return next((one for one in found if one.teacher_top1 is not None and math.isfinite(one.teacher_top1)), None)

    @cached_property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most seeds behind a finished cell."""
        counts = [len(cell.runs) for line in self.lines for cell in line.cells.values() if cell.runs]
        return (min(counts), max(counts)) if counts else (0, 0)

    @property
    def independent(self) -> int:
        """Number of runs behind the table, each counted once."""
        return sum(line.independent for line in self.lines)


def build(selection: Selection, baseline: str = STUDENT, rule: str = "last", top: int | None = None) -> Board:
    """Every number of a suite's table.

    Args:
        selection: the records.
        baseline: method that gains are measured against.
        rule: of `RULES`, which epoch counts.
        top: show so many of the ranked methods, and of those that change the student; all statistics are of all.

    Raises:
        ValueError: no run has an accuracy by this rule.
    """
    known, metric = len(selection.known()), RULES[rule]
    refused: dict[tuple[str, Pair], list[Record]] = {}
    for pair, one in selection.refused:
        refused.setdefault((one.method, pair), []).append(one)
    lines = []
    for method in selection.methods:
        cells = {}
        for pair in selection.pairs:
            runs = selection.runs.get((method, pair), [])
            cells[pair] = Cell(tuple(runs), tuple(refused.get((method, pair), ())), metric)
        any_record = next(one for cell in cells.values() for one in cell.runs + cell.refused)
        kind: Literal["student", "ranked", "modified"] = (
            "student" if method == STUDENT else "modified" if any_record.modified_student else "ranked"
        )
        shared = method in selection.teacherless
        lines.append(Line(method, kind, plain(any_record.provenance, 80), cells, known, shared))
    if rule != "last" and not any(cell.by_seed for line in lines for cell in line.cells.values()):
        raise ValueError(
            f"no run of suite {plain(selection.suite, 80)} has an accuracy by the rule {rule!r} ({metric});"
            " `--select last` ranks by the last epoch"
        )
    board = Board(selection, baseline, lines, rule)
    _gains(board)
    _ranks(board, "modified")
    board.ranked_pairs, board.blocks = _ranks(board, "ranked")
    order = {"student": 0, "ranked": 1, "modified": 2}
    board.lines.sort(key=lambda line: (order[line.kind], *_place(line)))
    _relative(board)
    if top is not None:
        _cut(board, top)
    return board


def _place(line: Line) -> tuple[float, float, float, str]:
    rank = line.rank.mean if line.rank else float("inf")
    gain = line.gain.mean if line.gain else float("-inf")
    mean = line.mean()
    return rank, -gain, -(mean if mean is not None else float("-inf")), line.label


def _cut(board: Board, top: int) -> None:
    """Keep the first lines of each class; the baseline stays."""
    kept: list[Line] = []
    count: dict[str, int] = {}
    for line in board.lines:
        count[line.kind] = count.get(line.kind, 0) + 1
        if count[line.kind] <= top or line.label == board.baseline:
            kept.append(line)
        else:
            board.hidden.append(line)
    board.lines = kept
    if board.hidden:
        number = len(board.hidden)
        board.notes.append(
            f"{number} method{'s' * (number != 1)} behind the best {top} {'are' if number != 1 else 'is'} not shown;"
            " ranks and corrections count all"
        )


def _gains(board: Board) -> None:
    base = board.line(board.baseline)
    if base is None or not base.runs:
        board.notes.append(f"no gains are shown: there is no finished run of the baseline {plain(board.baseline, 80)}")
        return
    students = [student for _, student in board.pairs]
    others = [line for line in board.lines if line is not base]
    for line in others:
        apart = [differences(line.cells[pair], base.cells[pair]) for pair in board.pairs]
        line.gain = stats.gain(apart, students)
        for pair, own in zip(board.pairs, apart, strict=True):
            if found := stats.gain([own]):
                board.gains[line.label, pair] = found
    for line, p in zip(others, stats.holm([line.gain and line.gain.p for line in others]), strict=True):
        line.p = p
    board.cell_p = dict(zip(board.gains, stats.holm([one.p for one in board.gains.values()]), strict=True))


def _ranks(board: Board, kind: str) -> tuple[list[Pair], Blocks]:
    """Set the ranks of one class; returns the pairs and blocks that they rest on.

    A method that refuses or lacks a pair would take that pair from everybody's rank: where two or
    more methods have every pair they alone are ranked, else all of them on the pairs they share.
    """
    lines = [line for line in board.shown if line.kind == kind]
    whole = [line for line in lines if all(line.cells[pair].by_seed for pair in board.pairs)]
    if 2 <= len(whole) < len(lines):
        partial = ", ".join(line.shown for line in lines if line not in whole)
        board.notes.append(f"not ranked, because they lack a result on some pair: {partial}")
        lines = whole
    if len(lines) < 2:
        return [], {}
    blocks: Blocks = {}
    common = []
    uneven = []
    for pair in board.pairs:
        scores = [line.cells[pair].by_seed for line in lines]
        seeds = set.intersection(*(set(one) for one in scores))
        if seeds:
            common.append(pair)
            if lacking := {seed for one in scores for seed in one} - seeds:
                uneven.append(f"on {plain(':'.join(pair), 80)} {_some(seeds)}, without {_some(lacking)}")
        for seed in sorted(seeds):
            found = {line.label: one[seed] for line, one in zip(lines, scores, strict=True)}
            blocks[":".join(pair), seed] = found
    what = "methods" if kind == "ranked" else "methods that change the student"
    if not blocks:
        board.notes.append(f"no average rank of the {what}: there is no pair and seed that all of them have finished")
        return [], {}
    if len(common) < len(board.pairs):
        left = ", ".join(plain(":".join(pair), 80) for pair in board.pairs if pair not in common)
        board.notes.append(
            f"average rank of the {what} over {len(common)} of {len(board.pairs)} pairs, those that all"
            f" of them have; without {left}"
        )
    if uneven:
        board.notes.append(
            f"average rank of the {what} over the seeds that all of them have, unlike the means: {'; '.join(uneven)}"
        )
    students = {":".join(pair): pair[1] for pair in common}
    ranks = resample.average_ranks({key: list(found.values()) for key, found in blocks.items()}, students)
    for line, rank in zip(lines, ranks, strict=True):
        line.rank = rank
    return common, blocks


def _some(seeds: set[int]) -> str:
    few = sorted(seeds)[:8]
    rest = f" and {len(seeds) - len(few)} more" if len(seeds) > len(few) else ""
    return f"{', '.join(map(str, few))}{rest}"


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
            best, other, plain_student = zip(*rows, strict=True)
            line.ari = stats.ari(best, other, plain_student)


def differences(cell: Cell, base: Cell) -> dict[int, float]:
    """Seed -> accuracy of one minus that of the other, for the seeds that both have."""
    own, other = cell.by_seed, base.by_seed
    return {seed: own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())}
