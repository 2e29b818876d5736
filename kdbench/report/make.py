"""From a folder of records to every file of a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.record import Record
from kdbench.report import board as boards
from kdbench.report import (
    comparable,
    compare,
    cost,
    facts,
    latex,
    linked,
    mismatch,
    page,
    probes,
    published_order,
    runs_csv,
    style,
    tables,
    text,
    tuned,
)
from kdbench.report import select as selecting
from kdbench.report.board import RULES, STUDENT, Board
from kdbench.report.cost import Cost
from kdbench.report.cost_figure import cost as cost_figure
from kdbench.report.escape import plain
from kdbench.report.figures import figures
from kdbench.report.gather import gather
from kdbench.report.items import Table
from kdbench.report.records import Records, to_beat
from kdbench.report.sensitivity_figure import sensitivity
from kdbench.suites import PublishedOf, Suite
from kdbench.utils.collecting import set_aside
from kdbench.utils.files import atomic_write
from kdbench.utils.globs import fits
from kdbench.utils.tuning_file import Tuned

FORMATS = ("csv", "md", "tex", "html", "png", "svg")

PublishedTable = Mapping[tuple[str, str, str], Any]  # (teacher, student, method) -> mean, std, n, source, rule
PublishedTables = Callable[[str], PublishedTable] | Mapping[str, PublishedTable] | None  # by suite

_TAKEN = {
    "runs",
    "teachers",
    "students",
    "assistants",
    "tables",
    "tuned",
    "probes",
    "bench",
    "estimates",
}  # folders of others


@dataclass
class SuiteReport:
    """What a report says about one suite, and where it wrote it.

    >>> from kdbench.run import outcome, runner, session
    >>> class Quiet(outcome.Watcher):
    ...     "Hears everything and says nothing."
    >>> words = {"suite": "digits", "seeds": "1", "epochs": 1, "limit_train": 64, "device": "cpu"}
    >>> _ = runner.run(session.resolve(session.Request("student", "resnet20:resnet8", **words)), Quiet())
    >>> (digits,) = report(Path("results"), formats=["csv"])
    >>> digits.suite, digits.tables[0].name, digits.problems
    ('digits', 'leaderboard', [])
    """

    suite: str
    title: str
    banner: str  # of quick runs; empty otherwise
    board: Board
    tables: list[Table]
    notes: list[str] = field(default_factory=list)  # what was left out or could not be said
    problems: list[str] = field(default_factory=list)  # damaged records
    files: list[Path] = field(default_factory=list)
    choices: list[Tuned] = field(default_factory=list)  # what tuning chose on the pairs of the board
    orders: list[published_order.Compared] = field(default_factory=list)  # published tables beside the board

    def frame(self) -> Any:
        """The leaderboard as a table of pandas: numbers only, one row per method, as in leaderboard.csv."""
        return text.wide_form(self.board)


@dataclass(frozen=True)
class _Asked:
    """What the caller wants to see."""

    baseline: str
    methods: list[str] | None  # with the baseline and the plain student
    pairs: list[str] | None
    rule: str
    top: int | None
    published: PublishedTables
    standing: Mapping[str, Records]
    papers: published_order.Papers | None
    costs: Sequence[Cost]
    formats: Sequence[str]
    addresses: linked.Addresses | None
    own: Mapping[str, Suite]


def report(
    out: Path,
    *,
    suites: Sequence[str] | None = None,
    baseline: str = STUDENT,
    methods: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    select: str = "last",
    top: int | None = None,
    published: PublishedTables = None,
    standing: Mapping[str, Records] | None = None,
    papers: published_order.Papers | None = None,
    costs: Sequence[Cost] | None = None,
    formats: Sequence[str] = FORMATS,
    addresses: linked.Addresses | None = None,
    own: Mapping[str, Suite] | None = None,
) -> list[SuiteReport]:
    """Write the leaderboards of an output folder.

    The same records give the same bytes. Every file is written whole or not at all.

    Args:
        out: folder that ``kdbench run`` wrote to.
        suites: which suites; None means all that have records.
        baseline: method that gains are measured against.
        methods: rows to show, or globs of them; the plain student and the baseline are shown besides. None means all.
        pairs: columns to show, ``teacher:student`` or globs of it. None means all.
        select: which epoch counts: ``last``, ``val`` (best on the validation split) or ``oracle`` (best on the test
            set, which flatters and says so).
        top: show so many of the best methods; ranks and corrections still count all. None shows all.
        published: published numbers of a suite, see ``PublishedTables``.
        standing: by suite, the published numbers to beat, see ``kdbench.suites.records_to_beat``.
        own: by name, the suites that these numbers belong to: runs that depart from theirs have none beside them.
        papers: published tables of a data set, such as ``kdbench.suites.published_on``: the order of their methods is
            compared with the order here.
        costs: measured costs of methods; without them none are shown.
        formats: files to write, of ``FORMATS``.
        addresses: of records, from the folder of a suite's page: the page links every number to them.

    Raises:
        ValueError: no records, or no such suite, method, pair, rule or format; or a choice of none at all.
        OSError: a file cannot be written; those that were there are whole.

    >>> from kdbench.run import outcome, runner, session
    >>> class Quiet(outcome.Watcher):
    ...     "Hears everything and says nothing."
    >>> words = {"suite": "digits", "seeds": "1", "epochs": 1, "limit_train": 64, "device": "cpu"}
    >>> _ = runner.run(session.resolve(session.Request("student", "resnet20:resnet8", **words)), Quiet())
    >>> (digits,) = report(Path("results"), formats=["csv"])
    >>> Path("results/digits/leaderboard.csv") in digits.files
    True
    """
    if select not in RULES:
        raise ValueError(f"no rule {select!r} for the epoch that counts; there are {', '.join(RULES)}")
    if top is not None and top < 1:
        raise ValueError(f"the best {top} methods cannot be shown; give 1 or more, or nothing for all")
    kinds = _chosen("format", formats, ", ".join(FORMATS)) or []
    unknown = [name for name in kinds if name not in FORMATS]
    if unknown:
        raise ValueError(f"no report format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    rows = _chosen("method", _rejoin(methods) if methods is not None else None, "all without --methods")
    columns = _chosen("pair", pairs, "all without --pairs")
    wanted = _chosen("suite", suites, "all that have records without --suite")
    records, problems = gather(out / "runs")
    by_suite = _by_suite(out, records, problems, wanted)
    there = sorted({one.method for found in by_suite.values() for one in found})
    if baseline not in (STUDENT, *there):
        raise ValueError(_none("baseline", baseline, there))
    rows = None if rows is None or "all" in rows else _labels(rows, there)
    keep = None if rows is None else [*rows, baseline, STUDENT]
    asked = _Asked(
        baseline,
        keep,
        columns,
        select,
        top,
        published,
        standing or {},
        papers,
        costs or (),
        kinds,
        addresses,
        own or {},
    )
    with set_aside():  # a million points, which make no circles
        return _written(out, by_suite, rows, asked, problems)


def _written(
    out: Path, by_suite: dict[str, list[Record]], rows: list[str] | None, asked: _Asked, problems: list[str]
) -> list[SuiteReport]:
    names, made, misses = _names(by_suite), [], []
    for suite in sorted(by_suite):
        own = [one for one in by_suite[suite] if rows is None or one.method in rows]
        if own:
            try:
                made.append(_suite(out, suite, by_suite[suite], asked))
            except ValueError as error:  # of pairs or a rule that another suite may well have
                misses.append(str(error))
    if not made:
        raise ValueError(misses[0] if misses else "no suite has runs of all that was asked for")
    for one in made:
        found = probes.part(out, one.suite, one.board.selection.finished)
        one.tables += found.tables
        problems += found.problems
        one.tables += [linked.runs(one.board)] if asked.addresses is not None else []
        _write(one, by_suite[one.suite], out, names[one.suite], asked, found)
    made[0].problems = problems + [plain(miss, 600) for miss in misses]
    return made


def _suite(out: Path, suite: str, records: Sequence[Record], asked: _Asked) -> SuiteReport:
    selection = selecting.select(records, asked.methods, asked.pairs, asked.rule)
    board = boards.build(selection, asked.baseline, asked.rule, asked.top)
    notes = [*selection.notes, *board.notes]
    numbers = _published(suite, asked.published, notes), asked.standing.get(suite, {})
    papers, standing = comparable.beside(selection, asked.own.get(suite), *numbers, notes)
    shown = tables.all_tables(board, papers, standing)
    measured = cost.tables(board, asked.costs)
    if not measured:
        notes.append(cost.UNKNOWN)
    beaten = to_beat(board, standing)
    orders = published_order.compare(board, _papers(selection.dataset, asked.papers, notes))
    place = next((number for number, table in enumerate(shown) if table.name == "parameters"), len(shown))
    shown[place:place] = [*measured, *(one for one in (beaten, published_order.table(board, orders)) if one.rows)]
    chosen, problems = tuned.choices(out, suite, board.pairs)
    notes += problems
    if (beside := tuned.table(board, chosen)).rows:
        shown.insert(1, beside)
    elif sentence := tuned.summary(chosen, selection.epochs):
        notes.append(f"{sentence} `kdbench run --weights tuned` measures the choices")
    return SuiteReport(
        suite, facts.title(selection), facts.banner(selection), board, shown, notes, choices=chosen, orders=orders
    )


def _write(
    made: SuiteReport, records: Sequence[Record], out: Path, name: str, asked: _Asked, found: probes.Part
) -> None:
    folder, board, formats = out / name, made.board, asked.formats
    files: dict[Path, bytes] = {}
    if "csv" in formats:
        files[out / f"{name}.csv"] = _csv(runs_csv.long_form(records))
        files[folder / "curves.csv"] = runs_csv.curves(records).encode()
        files[folder / "leaderboard.csv"] = _csv(text.wide_form(board))
        files[folder / "comparisons.csv"] = _csv(compare.every_two(board))
        if len(couples := mismatch.numbers(board)):
            files[folder / "mismatch.csv"] = _csv(couples)
        if made.orders:
            files[folder / "published_order.csv"] = _csv(published_order.numbers(made.orders))
        if made.choices:
            files[folder / "sensitivity.csv"] = _csv(tuned.trials(made.choices))
        if tuned.couples(board):
            files[folder / "tuned.csv"] = _csv(tuned.side_by_side(board, made.choices))
    if "md" in formats:
        files[folder / "leaderboard.md"] = text.markdown(board, made.tables, made.notes).encode()
    if "tex" in formats:
        files[folder / "leaderboard.tex"] = latex.document(board, made.tables, made.notes).encode()
    kinds = [kind for kind in ("png", "svg") if kind in formats]
    drawn: dict[str, Any] = {}
    if kinds or "html" in formats:
        drawn = figures(board)
        if (figure := cost_figure(board, asked.costs)) is not None:
            drawn["cost"] = figure
        if (figure := sensitivity(board, made.choices)) is not None:
            drawn["sensitivity"] = figure
        drawn |= found.drawings
        vectors = {stem: style.render(drawn[stem], "svg") for stem in drawn if "svg" in formats or "html" in formats}
        for stem, figure in drawn.items():
            if "svg" in formats:
                files[folder / f"{stem}.svg"] = vectors[stem]
            if "png" in formats:
                files[folder / f"{stem}.png"] = style.render(figure, "png")
        if "html" in formats:
            source = {stem: data.decode() for stem, data in vectors.items()}
            files[folder / "leaderboard.html"] = page.render(
                board, made.tables, source, made.notes, asked.addresses
            ).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # all bytes lie beside the old files before the first of these is replaced
        for path, data in files.items():
            file = stack.enter_context(atomic_write(path))
            file.write(data)
            file.flush()
    for stem in page.CAPTIONS.keys() - drawn.keys():  # an older report's, of records that are gone
        for kind in kinds:
            (folder / f"{stem}.{kind}").unlink(missing_ok=True)
    for name in ("sensitivity.csv", "tuned.csv", "mismatch.csv", "published_order.csv") if "csv" in formats else ():
        if folder / name not in files:
            (folder / name).unlink(missing_ok=True)
    made.files = sorted(files)


def _csv(frame: Any) -> bytes:
    """Numbers with six digits after the point, so that a diff shows changes and not rounding."""
    return str(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")).encode()


def _names(suites: Mapping[str, Any]) -> dict[str, str]:
    """Suite -> its part of a path: safe, and no two alike, also where upper and lower case are one."""
    names: dict[str, str] = {}
    for suite in sorted(suites):
        name = record.safe_name(suite)[:100]
        if name.lower() in {*(other.lower() for other in names.values()), *_TAKEN}:
            name += "-" + hashlib.sha256(suite.encode(errors="surrogatepass")).hexdigest()[:8]
        names[suite] = name
    return names


def _by_suite(
    out: Path, records: Sequence[Record], problems: Sequence[str], wanted: Sequence[str] | None
) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for one in records:
        found.setdefault(one.suite, []).append(one)
    if not found:
        damaged = f" ({len(problems)} left out: {problems[0]})" if problems else ""
        raise ValueError(
            f"no run records under {out / 'runs'}{damaged}; `kdbench run` makes some; is it the right folder?"
        )
    if wanted is None:
        return found
    for name in wanted:
        if name not in found:
            there = ", ".join(plain(one, 80) for one in sorted(found))
            raise ValueError(f"no run records of suite {name!r} under {out / 'runs'}; there are some of {there}")
    return {name: found[name] for name in wanted}


def _chosen(what: str, names: Sequence[str] | None, instead: str) -> list[str] | None:
    """The names that are not empty, each once; None stays None."""
    if names is None:
        return None
    kept = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not kept:
        raise ValueError(f"no {what} is named in {','.join(names)!r}; there are {instead}")
    return kept


def _none(what: str, name: str, there: Sequence[str]) -> str:
    return f"no runs of {what} {name!r}; there are {', '.join(plain(one, 80) for one in there)}"


def _labels(words: Sequence[str], there: Sequence[str]) -> list[str]:
    """The rows that words mean, labels or globs, in the order of the words, each once."""
    found: dict[str, None] = {}
    for word in words:
        meant = [label for label in there if fits(word, label)]
        if not meant:
            raise ValueError(_none("method", word, there))
        found |= dict.fromkeys(meant)
    return list(found)


def _rejoin(methods: Sequence[str]) -> list[str]:
    """``semckd[beta=1`` and ``tau=2]`` are one label that was split at its comma."""
    labels: list[str] = []
    for part in methods:
        if labels and labels[-1].count("[") > labels[-1].count("]"):
            labels[-1] += f",{part}"
        else:
            labels.append(part.strip())
    return labels


def _published(suite: str, published: PublishedTables, notes: list[str]) -> PublishedTable:
    if published is None:
        return {}
    if isinstance(published, Mapping):
        return published.get(suite, {})
    try:
        return published(suite)
    except ValueError as error:
        notes.append(f"no published numbers are shown: {error}")
        return {}


def _papers(dataset: str, papers: published_order.Papers | None, notes: list[str]) -> Sequence[PublishedOf]:
    if papers is None:
        return []
    try:
        return papers(dataset)
    except ValueError as error:
        notes.append(f"the order of the methods is not compared with published tables: {error}")
        return []
