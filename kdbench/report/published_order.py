"""Published orders: whether papers' tables put the methods in the order that this one finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import NamedTuple

import pandas as pd
from scipy import stats as scipy_stats

from kdbench.report import escape, facts
from kdbench.report.board import Board
from kdbench.report.compare import ALL
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table, one_line, p_words
from kdbench.report.teacherless import Pair
from kdbench.report.tuned import MARK
from kdbench.suites import PublishedOf

#: Published tables of a data set.
Papers = Callable[[str], Sequence[PublishedOf]]
#: Methods in common below which an order says nothing: of four, one in twelve draws is in order or reversed.
FEWEST = 5
#: What a label has behind the method's name, by the weights that it stands for.
WEIGHTS = {"published weights": "", "tuned weights": MARK}
COLUMNS = ("published", "convention", "pair", "weights", "kendall_tau", "p", "n_methods", "methods")

Accuracy = Mapping[str, float]  # method -> top-1 accuracy, %


class Agreement(NamedTuple):
    """How like two orders of methods are.

    >>> ours = {"kd": 70.1, "at": 70.2, "sp": 70.3, "vid": 70.4, "rkd": 70.5}
    >>> found = agree(ours, ours | {"kd": 74.0})
    >>> round(found.tau, 3), len(found.methods)
    (0.2, 5)
    """

    tau: float  # Kendall's tau-b: 1 the same order, -1 the reverse
    p: float  # of a two-sided test against orders drawn at random
    methods: tuple[str, ...]  # that both have


@dataclass(frozen=True)
class Compared:
    """One published table beside the board."""

    paper: PublishedOf
    among: tuple[float, ...]  # tau of every two of its own pairs, over the methods of the board
    whole: Mapping[str, Agreement]  # weights -> the board with the methods' means over all its pairs
    pairs: Mapping[tuple[str, Pair], Agreement]  # weights, published pair -> the board with this pair


def agree(ours: Accuracy, theirs: Accuracy) -> Agreement | None:
    """Compare the orders of the methods that both have; None where these are too few, or all level."""
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < FEWEST:
        return None
    found = scipy_stats.kendalltau([ours[name] for name in both], [theirs[name] for name in both])
    if not math.isfinite(found.statistic):
        return None
    return Agreement(float(found.statistic), float(found.pvalue), tuple(both))


def compare(board: Board, papers: Sequence[PublishedOf]) -> list[Compared]:
    """Every published table that has enough methods of the board; none for quick runs."""
    if board.selection.quick:
        return []
    ours = {words: _own(board, mark) for words, mark in WEIGHTS.items()}
    made = []
    for paper in papers:
        columns = _by_pair(paper)
        means = _means(columns)
        whole = {words: one for words, mine in ours.items() if (one := agree(mine, means))}
        pairs = {
            (words, pair): one
            for words, mine in ours.items()
            for pair in sorted(columns)
            if (one := agree(mine, columns[pair]))
        }
        if pairs:
            known = set().union(*ours.values())
            kept = [{name: column[name] for name in column.keys() & known} for column in columns.values()]
            among = tuple(one.tau for two in combinations(kept, 2) if (one := agree(*two)))
            made.append(Compared(paper, among, whole, pairs))
    return made


def table(board: Board, compared: Sequence[Compared]) -> Table:
    """A row for each published table, two columns for each kind of weights on the board."""
    made = Table("published_order", "Order of the methods, here and in published tables", [], [])
    if not compared:
        return made
    kinds = [words for words in WEIGHTS if any(words == one for each in compared for one, _ in each.pairs)]
    made.header = ["published", "loss convention", "its pairs among themselves"]
    made.header += [f"{words}: {side}" for words in kinds for side in ("its means", "its pairs")]
    for one in compared:
        items = [
            Item(plain(one.paper.title, 60), one.paper.title.lower()),
            Item(one.paper.convention or NONE, one.paper.convention),
            _range(one.among),
        ]
        for words in kinds:
            items.append(_whole(one.whole.get(words)))
            items.append(_range([found.tau for (kind, _), found in one.pairs.items() if kind == words]))
        made.rows.append(Row(tuple(items)))
    pairs = ", ".join(one_line(pair) for pair in board.ranked_pairs)
    made.notes = [
        f"Kendall's tau between the methods' mean accuracy here ({plain(pairs, 200)}; {facts.RULE_WORDS[board.rule]})"
        " and their published accuracy: 1 is the same order, 0 none in common, -1 the reverse. Its means: over all"
        " pairs of the published table (number of methods in both; p, two-sided, against orders drawn at random, not"
        " corrected). Its pairs: median [least, most] over them. Its pairs among themselves: every two of them, the"
        " same methods; an order that changes from pair to pair can be found again nowhere.",
        "The plain student does not count. Papers take epochs, and often weights, by the test set.",
    ]
    made.caption = "Kendall's tau between the order of the methods here and in published tables."
    return made


def numbers(compared: Sequence[Compared]) -> pd.DataFrame:
    """A row for each published pair and kind of weights; ``all`` in the place of a pair is the mean over them."""
    rows = []
    for one in compared:
        found = [(words, ALL, agreement) for words, agreement in one.whole.items()]
        found += [(words, ":".join(pair), agreement) for (words, pair), agreement in one.pairs.items()]
        for words, pair, agreement in found:
            rows.append(
                {
                    "published": escape.csv(one.paper.title),
                    "convention": escape.csv(one.paper.convention),
                    "pair": escape.csv(pair),
                    "weights": words.split()[0],
                    "kendall_tau": agreement.tau,
                    "p": agreement.p,
                    "n_methods": len(agreement.methods),
                    "methods": " ".join(agreement.methods),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _own(board: Board, mark: str) -> Accuracy:
    """Mean accuracy of the ranked methods whose label is a method's name with the mark, and nothing else."""
    found = {}
    for line in board.everything:
        name = line.label.removesuffix(mark)
        mean = line.mean(pairs=board.ranked_pairs)
        if line.kind == "ranked" and mean is not None and line.label == name + mark and not {"@", "["} & set(name):
            found[name] = mean
    return found


def _by_pair(paper: PublishedOf) -> dict[Pair, dict[str, float]]:
    found: dict[Pair, dict[str, float]] = {}
    for (teacher, student, method), number in paper.numbers.items():
        found.setdefault((teacher, student), {})[method] = number.mean
    return found


def _means(columns: Mapping[Pair, Accuracy]) -> Accuracy:
    """The mean over all pairs of every method that has them all."""
    everywhere = set.intersection(*(set(column) for column in columns.values())) if columns else set()
    return {name: sum(column[name] for column in columns.values()) / len(columns) for name in everywhere}


def _whole(found: Agreement | None) -> Item:
    if found is None:
        return Item(NONE)
    words = f"{found.tau:+.2f} ({len(found.methods)}), p {p_words(found.p)}"
    return Item(words, found.tau, title=", ".join(found.methods))


def _range(taus: Sequence[float]) -> Item:
    """``+0.33 [-0.47, +1.00]``, ``+0.33`` of one."""
    if not taus:
        return Item(NONE)
    middle = median(taus)
    return Item(f"{middle:+.2f}" + (f" [{min(taus):+.2f}, {max(taus):+.2f}]" if len(taus) > 1 else ""), middle)
