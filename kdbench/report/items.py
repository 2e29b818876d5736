"""What a table is made of; every writer (Markdown, LaTeX, HTML, terminal) prints these same tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdbench.record import Record
from kdbench.report.escape import plain
from kdbench.report.resample import Rank
from kdbench.report.stats import LEVEL, Gain, Spread
from kdbench.report.teacherless import Pair

TEACHER = "teacher"
CLASS_TITLES = {"modified": "methods that change the student at inference"}  # of rows that are a class of their own
NONE = "-"
SURE = 1 - LEVEL  # a corrected p below this is marked
LONGEST_REASON = 400


@dataclass(frozen=True)
class Item:
    """One cell of a table.

    >>> Item("97.50", value=97.5, best=True).value
    97.5
    """

    text: str
    value: float | str | None = None  # what it is sorted by; None goes last
    shade: float | None = None  # gain over the baseline, for the colour
    best: bool = False  # of its column
    second: bool = False  # of its column
    title: str = ""  # more words, where there is room for them
    spread: Spread | None = None  # of a cell with a mean: paper prints it in its own way
    sure: bool = False  # differs from the baseline after correction
    records: tuple[Record, ...] = ()  # that it rests on, where these are few


@dataclass(frozen=True)
class Row:
    """A row; ``kind`` is ``teacher``, ``student``, ``ranked``, ``modified`` or empty.

    >>> [item.text for item in Row((Item("kd"), Item("97.50", 97.5)), kind="ranked").items]
    ['kd', '97.50']
    """

    items: tuple[Item, ...]
    kind: str = ""
    anchor: str = ""  # its name in a page, where others lead to it


@dataclass
class Table:
    """A header, rows and the sentences below them. Columns from ``first_pair`` on are pairs.

    >>> rows = [Row((Item("kd"), Item("97.50", 97.5)), kind="ranked")]
    >>> Table("leaderboard", "Top-1 accuracy", ["method", "resnet20:resnet8"], rows, first_pair=1).rows[0].kind
    'ranked'
    """

    name: str
    title: str
    header: list[str]  # two lines where there is a line break
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    first_pair: int | None = None
    caption: str = ""  # one short sentence for print; empty: not for print


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


def pair_name(pair: Pair) -> str:
    """Two lines: teacher, arrow and student; the student alone where there is no teacher."""
    if not pair[0]:
        return plain(pair[1], 60)
    return f"{plain(pair[0], 60)}\n→ {plain(pair[1], 60)}"


def one_line(pair: Pair) -> str:
    """``teacher → student``."""
    if not pair[0]:
        return plain(pair[1], 60)
    return f"{plain(pair[0], 60)} → {plain(pair[1], 60)}"


def spread_item(found: Spread | None) -> Item:
    """``73.50 ± 0.28 (5)``."""
    return Item(number(found.mean, found.std, found.n), found.mean) if found else Item(NONE)


def rank_item(rank: Rank | None) -> Item:
    """``1.5 [1.0, 2.3]``."""
    if rank is None:
        return Item(NONE)
    return Item(f"{rank.mean:.2f}" + (f" [{rank.low:.1f}, {rank.high:.1f}]" if rank.low is not None else ""), rank.mean)


def gain_item(gain: Gain | None, is_baseline: bool = False, p: float | None = None) -> Item:
    """``+1.20 [+0.90, +1.50]``, with a star where it differs from zero after correction."""
    if gain is None:
        return Item("baseline" if is_baseline else NONE)
    text = f"{gain.mean:+.2f}" + (f" [{gain.low:+.2f}, {gain.high:+.2f}]" if gain.low is not None else "")
    return Item(text + "*" * sure(p), gain.mean, shade=gain.mean, sure=sure(p))


def p_words(p: float | None) -> str:
    """``<.001``, ``.012``, ``1``."""
    if p is None:
        return NONE
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


def sure(p: float | None) -> bool:
    """Whether a corrected p value is small enough for a mark."""
    return p is not None and p < SURE


def interval_item(found: Rank | Gain | None, form: str) -> Item:
    """``[+0.90, +1.50]``."""
    if found is None or found.low is None or found.high is None:
        return Item(NONE)
    return Item(f"[{found.low:{form}}, {found.high:{form}}]", found.low)


def number(mean: float, std: float | None, n: int | None) -> str:
    """``73.50 ± 0.28 (5)``."""
    return f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "") + (f" ({n})" if n is not None else "")


def count(number: int, what: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {what}{'s' * (number != 1)}"
