"""What probes found: a table for each, a long CSV file, figures, and their part of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdbench import record
from kdbench.record import Record, safe_name
from kdbench.report import probe_figures, style
from kdbench.report.board import READING
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table, one_line
from kdbench.report.probe_groups import Group, groups
from kdbench.utils import findings
from kdbench.utils.files import atomic_write
from kdbench.utils.findings import TEACHER, Finding

#: In the order in which a report shows them, with their titles.
TITLES = {
    "transfer": "Transfer: a linear classifier on the frozen network",
    "finetune": "Finetune: the whole network, trained on other data",
    "robustness": "Robustness: top-1 under corruption, area under the curves",
    "similarity": "Similarity to the teacher: CKA of layers, correlations of classes",
    "attention": "Attention: which stages of the teacher were listened to",
    "calibration": "Calibration: errors of the confidence, before and after temperature scaling",
    "agreement": "Agreement with the teacher",
    "cost": "Cost of the evaluated network",
}
NOTES = {
    "transfer": "Pooled vectors of the frozen network; the test part of the other data chooses nothing.",
    "finetune": "Fresh last layer, last epoch; the network starts from its weights.",
    "robustness": "Mean height of each curve over levels 0 (clean) to 5; the same corrupted images for every network.",
    "similarity": "Debiased linear CKA of minibatches: 1 for equal maps up to rotation and scale, 0 for independent"
    " ones. Differences are means of |student - teacher| over pairs of classes.",
    "attention": "Entropy of a student stage's weights over the teacher's stages: 0 one stage, 1 all alike.",
    "calibration": "After: on the half of the test images that did not choose the temperature. NLL in nats.",
    "agreement": "Share of test images on which student and teacher predict the same class; KL(teacher || student) in"
    " nats.",
    "cost": "Of one image, and of whole batches in milliseconds. Times are compared within one condition only.",
}


@dataclass
class Part:
    """The probes' part of a suite's report."""

    tables: list[Table]
    drawings: dict[str, Figure]
    problems: list[str]


def part(out: Path, suite: str, records: Sequence[Record]) -> Part:
    """Tables and figures of what was found about the networks of these records, and of nothing older.

    Args:
        out: the folder of the records.
        suite: its name.
        records: what the report is about.
    """
    shown = {one.weights_sha256 for one in records} | {one.teacher_sha256 for one in records if one.teacher_sha256}
    found, problems = of_suite(out, suite)
    mine = named([one for one in found if one.identity.get("network") in shown], records)
    return Part(tables(mine), drawings(mine), problems)


def of_suite(out: Path, suite: str) -> tuple[list[Finding], list[str]]:
    """Everything that probes have found about a suite, and a sentence for each file that is damaged."""
    found, problems = findings.read_all(out / "probes")
    folder = str(out / "probes" / safe_name(suite)[:100])
    return [one for one in found if one.suite == suite], [one for one in problems if one.startswith(folder)]


def named(found: Iterable[Finding], records: Iterable[Record]) -> list[Finding]:
    """Findings as they are shown: a method that was rebuilt from reading alone says so, as its line of a table does.

    >>> from kdbench.testing.examples import finding
    >>> [one.method for one in named([Finding(**finding())], records=[])]
    ['kd']
    """
    rebuilt = {one.method for one in records if READING in one.provenance}
    return [
        one.model_copy(update={"method": f"{one.method} ({READING})"}) if one.method in rebuilt else one
        for one in found
    ]


def records_of(out: Path, suites: Iterable[str]) -> list[Record]:
    """Every record of these suites that can be read.

    >>> records_of(Path("nowhere"), ["digits"])
    []
    """
    folders = [out / "runs" / safe_name(suite) for suite in suites]
    return [one for folder in folders if folder.is_dir() for one in record.read_all(folder)[0]]


def tables(found: Iterable[Finding]) -> list[Table]:
    """One table for each suite and probe: a row for each method on a pair, means over the seeds.

    >>> from kdbench.testing.examples import finding
    >>> (table,) = tables(Finding(**finding(seed=seed, summary={"ECE (%)": 2.0 + seed})) for seed in (0, 1))
    >>> table.header, [item.text for item in table.rows[0].items]
    (['method', 'pair', 'seeds', 'ECE (%)'], ['kd', 'T → S', '2', '2.50 ± 0.71'])
    """
    made = []
    by_suite: dict[str, list[Group]] = {}
    for group in groups(found):
        by_suite.setdefault(group.suite, []).append(group)
    for suite, mine in by_suite.items():
        for probe in [*TITLES, *sorted({group.probe for group in mine} - TITLES.keys())]:
            if rows := [group for group in mine if group.probe == probe]:
                title = plain(TITLES.get(probe, probe), 200)
                made.append(_table(probe, title if len(by_suite) == 1 else f"{plain(suite, 80)}: {title}", rows))
    return made


def _table(probe: str, title: str, rows: Sequence[Group]) -> Table:
    columns = list(dict.fromkeys(name for group in rows for one in group.findings for name in one.summary))
    columns = [name for name in columns if any(group.values(name) for group in rows)]
    varied = len({group.variant for group in rows}) > 1 or bool(rows[0].variant)
    header = ["method", "pair", *(["of"] if varied else []), "seeds", *(plain(name, 60) for name in columns)]
    made = []
    for group in rows:
        pair = plain(group.teacher, 60) if group.method == TEACHER else one_line((group.teacher, group.student))
        items = [Item(plain(group.method, 80)), Item(pair)]
        items += [Item(plain(group.variant, 80))] if varied else []
        seeds = group.seeds
        items.append(Item(str(len(seeds)) if seeds else NONE, len(seeds) or None))
        items += [_item(name, group.values(name)) for name in columns]
        made.append(Row(tuple(items), "teacher" if group.method == TEACHER else ""))
    notes = [NOTES[probe]] if probe in NOTES else []
    said = dict.fromkeys(note for group in rows for one in group.findings for note in one.notes)
    notes += [plain(note, 400) for note in list(said)[:6]]
    if any(one.quick for group in rows for one in group.findings):
        notes.append("QUICK RUN: of students that were trained for less than their recipe; not comparable.")
    return Table(f"probe-{safe_name(probe)}", title, header, made, notes)


def _item(name: str, values: Sequence[float]) -> Item:
    """``54.20 ± 0.31``."""
    if not values:
        return Item(NONE)
    mean = fmean(values)
    spread = f" ± {text(name, stdev(values))}" if len(values) > 1 and max(values) > min(values) else ""
    return Item(text(name, mean) + spread, mean)


def text(name: str, value: float) -> str:
    """A number as a table has it: percentages with two digits after the point, large counts whole.

    >>> text("MACs", 1234567.0), text("ECE (%)", 3.14159), text("NLL", 0.123456)
    ('1,234,567', '3.14', '0.123')
    """
    if name.endswith("(%)"):
        return f"{value:.2f}"
    if name in ("parameters", "MACs") or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:g}" if name.startswith("penalty") else f"{value:.3f}"


def drawings(found: Iterable[Finding]) -> dict[str, Figure]:
    """A figure for each probe, by the stem of its file; ``found`` are of one suite."""
    mine = groups(found)
    made = {}
    for probe in TITLES:
        rows = [group for group in mine if group.probe == probe]
        if rows and (figure := probe_figures.draw(probe, TITLES[probe], rows)) is not None:
            made[f"probe-{probe}"] = figure
    return made


def write(out: Path, suites: Sequence[str], probes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write CSV and figures of these probes from all that lies in the folder; what was written, and problems.

    Raises:
        OSError: a file cannot be written; those that were there are whole.

    >>> from kdbench.testing.examples import finding
    >>> one = Finding(**finding(probe="cost", rows=[{"batch": 1, "ms": 0.5}]))
    >>> _ = findings.write(one, Path("results/probes/digits/T/kd.json"))
    >>> written, problems = write(Path("results"), ["digits"], ["cost"])
    >>> written[0].as_posix(), problems
    ('results/probes/digits/cost.csv', [])
    """
    written: list[Path] = []
    problems: list[str] = []
    for suite in suites:
        found, damaged = of_suite(out, suite)
        problems += damaged
        folder, records = out / "probes" / safe_name(suite)[:100], records_of(out, [suite])
        files: dict[Path, bytes] = {}
        for probe in probes:
            mine = [one for one in found if one.probe == probe]
            if not mine:
                continue
            files[folder / f"{probe}.csv"] = long_form(mine)
            for figure in drawings(named(mine, records)).values():
                for kind in ("svg", "png"):
                    files[folder / f"{probe}.{kind}"] = style.render(figure, kind)
        with ExitStack() as stack:
            for path, data in files.items():
                stack.enter_context(atomic_write(path)).write(data)
        written += sorted(files)
    return written, problems


def long_form(found: Sequence[Finding]) -> bytes:
    """CSV: a line for each row of each finding; numbers with six digits after the point."""
    lines: list[dict[str, Any]] = []
    for one in found:
        about: dict[str, Any] = {
            "suite": one.suite,
            "teacher": one.teacher,
            "student": one.student,
            "method": one.method,
            "seed": one.seed,
            "quick": one.quick,
            "of": one.variant,
            "network": one.identity.get("network", "")[:12],
        }
        lines += [about | {key: value for key, value in row.items() if key not in about} for row in one.rows]
    frame = pd.DataFrame(lines)
    if "seed" in frame:
        frame = frame.astype({"seed": "Int64"})
    return str(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")).encode()
