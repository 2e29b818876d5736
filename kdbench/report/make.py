"""From a folder of records to every file of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench import record
from kdbench.record import Record
from kdbench.report import board as boards
from kdbench.report import facts, page, style, tables, text
from kdbench.report.board import STUDENT, Board
from kdbench.report.figures import figures
from kdbench.report.select import select
from kdbench.report.tables import Table

FORMATS = ("csv", "md", "tex", "html", "png", "svg")

PublishedTable = Mapping[tuple[str, str, str], Any]  # (teacher, student, method) -> mean, std, n, source, rule
PublishedTables = Callable[[str], PublishedTable] | Mapping[str, PublishedTable] | None  # by suite


@dataclass
class SuiteReport:
    """What a report says about one suite, and where it wrote it."""

    suite: str
    title: str
    banner: str  # of quick runs; empty otherwise
    board: Board
    tables: list[Table]
    notes: list[str] = field(default_factory=list)  # what was left out or could not be said
    problems: list[str] = field(default_factory=list)  # damaged records
    files: list[Path] = field(default_factory=list)


def report(
    out: Path,
    *,
    suites: Sequence[str] | None = None,
    baseline: str = STUDENT,
    methods: Sequence[str] | None = None,
    published: PublishedTables = None,
    formats: Sequence[str] = FORMATS,
) -> list[SuiteReport]:
    """Write the leaderboards of an output folder.

    The same records give the same bytes.

    Args:
        out: folder that ``kdbench run`` wrote to.
        suites: which suites; None means all that have records.
        baseline: method that gains are measured against.
        methods: rows to show; the plain student and the baseline are shown besides.
        published: published numbers of a suite, see ``PublishedTables``.
        formats: files to write, of ``FORMATS``.

    Raises:
        ValueError: no records, or no such suite, method or format.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"no report format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    records, problems = record.read_all(out / "runs")
    by_suite = _by_suite(out, records, problems, suites)
    rows = _rejoin(methods) if methods is not None else None
    _check_labels([baseline] if baseline != STUDENT else [], by_suite, "baseline")
    _check_labels(rows or [], by_suite, "method")
    keep = None if rows is None else [*rows, baseline, STUDENT]
    made = []
    for suite in sorted(by_suite):
        own = [one for one in by_suite[suite] if rows is None or one.method in rows]
        if own:
            made.append(_suite(out, suite, by_suite[suite], baseline, keep, published, formats))
    made[0].problems = problems
    return made


def _suite(
    out: Path,
    suite: str,
    records: Sequence[Record],
    baseline: str,
    methods: Sequence[str] | None,
    published: PublishedTables,
    formats: Sequence[str],
) -> SuiteReport:
    selection = select(records, methods)
    board = boards.build(selection, baseline)
    notes = [*selection.notes, *board.notes]
    papers = _published(suite, published, notes)
    made = SuiteReport(
        suite, facts.title(selection), facts.banner(selection), board, tables.all_tables(board, papers), notes
    )
    _write(made, records, out, formats)
    return made


def _write(made: SuiteReport, records: Sequence[Record], out: Path, formats: Sequence[str]) -> None:
    name = record.safe_name(made.suite)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {}
    board = made.board
    if "csv" in formats:
        files[out / f"{name}.csv"] = text.csv(text.long_form(records)).encode()
        files[folder / "leaderboard.csv"] = text.csv(text.wide_form(board)).encode()
    if "md" in formats:
        files[folder / "leaderboard.md"] = text.markdown(board, made.tables, made.notes).encode()
    if "tex" in formats:
        files[folder / "leaderboard.tex"] = text.latex(board, made.tables, made.notes).encode()
    kinds = [kind for kind in ("png", "svg") if kind in formats]
    if kinds or "html" in formats:
        drawn = figures(board)
        vectors = {
            stem: style.render(figure, "svg") for stem, figure in drawn.items() if "svg" in formats or "html" in formats
        }
        for stem, figure in drawn.items():
            if "svg" in formats:
                files[folder / f"{stem}.svg"] = vectors[stem]
            if "png" in formats:
                files[folder / f"{stem}.png"] = style.render(figure, "png")
        if "html" in formats:
            source = {stem: data.decode() for stem, data in vectors.items()}
            files[folder / "leaderboard.html"] = page.render(board, made.tables, source, made.notes).encode()
        for stem in page.CAPTIONS.keys() - drawn.keys():  # an older report's, of records that are gone
            for kind in kinds:
                (folder / f"{stem}.{kind}").unlink(missing_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    made.files = sorted(files)


def _by_suite(
    out: Path, records: Sequence[Record], problems: Sequence[str], wanted: Sequence[str] | None
) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for one in records:
        found.setdefault(one.suite, []).append(one)
    if not found:
        damaged = f" ({len(problems)} damaged: {problems[0]})" if problems else ""
        raise ValueError(
            f"no run records under {out / 'runs'}{damaged}; `kdbench run` makes some, --out names another folder"
        )
    if wanted is None:
        return found
    for name in wanted:
        if name not in found:
            there = ", ".join(sorted(found))
            raise ValueError(f"no run records of suite {name!r} under {out / 'runs'}; there are some of {there}")
    return {name: found[name] for name in wanted}


def _check_labels(labels: Sequence[str], by_suite: Mapping[str, Sequence[Record]], what: str) -> None:
    there = sorted({one.method for records in by_suite.values() for one in records})
    for label in labels:
        if label not in there:
            raise ValueError(f"no runs of {what} {label!r}; there are {', '.join(there)}")


def _rejoin(methods: Sequence[str]) -> list[str]:
    """``semckd[beta=1`` and ``tau=2]`` are one label that was split at its comma."""
    labels: list[str] = []
    for part in methods:
        if labels and labels[-1].count("[") > labels[-1].count("]"):
            labels[-1] += f",{part}"
        else:
            labels.append(part.strip())
    return [label for label in labels if label]


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
